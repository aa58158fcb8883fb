-- Signatures that a CA key is about to be asked for besides the first one of each device's intent: for CRLs, requests and
-- CAs' certificates, and every repetition. Written before the token is asked.
CREATE TABLE signature_account (
  key_id text PRIMARY KEY,
  noted bigint NOT NULL
);

-- Since when the token's own counter is compared with the account, and what both were when they were last looked at.
CREATE TABLE signature_baseline (
  key_id text PRIMARY KEY,
  counted bigint NOT NULL,
  accounted bigint NOT NULL,
  seen_counted bigint NOT NULL,
  seen_accounted bigint NOT NULL,
  seen_at timestamptz NOT NULL
);
