-- One challenge a device and client at a time: a station that asks doesn't undo what another is about to answer. Open ones
-- are minutes old at most, and asked for again.
DELETE FROM attestation_challenge;
ALTER TABLE attestation_challenge ADD COLUMN asker text NOT NULL CHECK (asker ~ '^[0-9a-f]{64}$');
ALTER TABLE attestation_challenge DROP CONSTRAINT attestation_challenge_pkey, ADD PRIMARY KEY (device, asker);
