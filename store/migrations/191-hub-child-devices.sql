-- A device is kept out at a hub also while it is in the hands of a child whose CA is revoked or held: `child` says whose,
-- and `done` when the hub had it.
ALTER TABLE hub_block ADD COLUMN child text, ADD COLUMN done timestamptz;
CREATE INDEX hub_block_child ON hub_block (hub, child) WHERE child IS NOT NULL;
