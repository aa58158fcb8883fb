-- A provisioned device is its CA's and its key's from then on, before it first connects: another registered CA can't take
-- its ID meanwhile.
ALTER TABLE hub_device DROP CONSTRAINT hub_device_check, DROP CONSTRAINT hub_device_check1;
ALTER TABLE hub_device ADD CHECK (first_connected_at IS NULL OR ca_name IS NOT NULL),
  ADD CHECK ((first_connected_at IS NULL) = (chain IS NULL));
