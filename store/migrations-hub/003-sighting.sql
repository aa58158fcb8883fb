-- Certificates that devices connected with, to be held against the ledger of whoever signed them. The bytes go once the
-- signer's site has answered.
CREATE TABLE hub_sighting (
  sha256        text PRIMARY KEY,
  -- SHA-256 of the SPKI that signed it
  issuer_key_id text NOT NULL,
  certificate   bytea,
  seen_at       timestamptz NOT NULL DEFAULT now(),
  -- the site's answer
  state         text CHECK (state IN ('known', 'unknown', 'foreign')),
  CHECK ((certificate IS NULL) = (state IS NOT NULL))
);
CREATE INDEX hub_sighting_open ON hub_sighting (issuer_key_id) WHERE state IS NULL;
