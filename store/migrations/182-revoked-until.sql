-- Until when a revoked certificate would have been valid: some time later no CRL needs to name it. Null until it is read.
ALTER TABLE revocation ADD COLUMN not_after timestamptz;
