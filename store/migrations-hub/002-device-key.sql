-- SHA-256 of the SPKI that the device proved at its first connect. Every party below one registered CA can certify any
-- ID: without this the last one to do so would have the device. Null for devices that connected before, until they do.
ALTER TABLE hub_device ADD COLUMN key_sha256 text CHECK (key_sha256 ~ '^[0-9a-f]{64}$');
