-- Certificates of this site's own CA keys that are revoked or held: one row for each step of a certificate's way, in
-- order. A row is the operator's word, and keeps custody steps of a device from being recorded, from the moment it is
-- committed; the act makes it evidence, the CRL tells everybody.
CREATE TABLE revocation (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- leaf hash of the act of this ledger that holds the certificate
  certificate_leaf text NOT NULL,
  step integer NOT NULL CHECK (step BETWEEN 1 AND 1000),
  target text NOT NULL CHECK (target IN ('device', 'ca')),
  -- the device's ID, or the child
  subject text NOT NULL,
  subject_key_id text NOT NULL,
  certificate bytea NOT NULL,
  issuer_key_id text NOT NULL,
  serial text NOT NULL,
  effect text NOT NULL CHECK (effect IN ('final', 'hold', 'lift')),
  reason text NOT NULL,
  invalidity timestamptz,
  requested_by text NOT NULL,
  requested timestamptz NOT NULL DEFAULT now(),
  -- what its act claims, and the CRL says
  time timestamptz,
  act_leaf text,
  -- of the first CRL that says so
  crl_number bigint,
  -- when every hub that is to be told had been told
  told timestamptz,
  error_code text,
  error_message text,
  UNIQUE (certificate_leaf, step),
  CHECK ((act_leaf IS NULL) = (time IS NULL))
);
CREATE INDEX revocation_subject ON revocation (target, subject);
CREATE INDEX revocation_issuer ON revocation (issuer_key_id, serial);
CREATE INDEX revocation_open ON revocation (id) WHERE act_leaf IS NULL OR crl_number IS NULL OR told IS NULL;
