-- What a device's TPM is asked, one challenge a device at a time: a new one takes the old one's place. It is answered once,
-- in time, by this database's clock; the secret itself is only in the credential that the device's TPM opens.
CREATE TABLE attestation_challenge (
  device text PRIMARY KEY REFERENCES device (id),
  id text NOT NULL UNIQUE,
  lot text NOT NULL REFERENCES lot (id),
  nonce bytea NOT NULL,
  secret_sha256 bytea NOT NULL,
  -- {ekCertificates, akPublic}: what the credential was made for, base64
  asked jsonb NOT NULL,
  expires timestamptz NOT NULL,
  spent timestamptz
);

-- Devices whose `attested` act is recorded.
CREATE TABLE attestation (
  device text PRIMARY KEY REFERENCES device (id),
  evidence_sha256 text NOT NULL,
  leaf_hash text NOT NULL
);
