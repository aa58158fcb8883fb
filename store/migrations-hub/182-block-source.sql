-- A site that takes its word back takes back its own alone: what an operator blocks by hand stays, whichever came first.
ALTER TABLE hub_block ADD COLUMN source text NOT NULL DEFAULT 'operator' CHECK (source IN ('operator', 'revocation'));
UPDATE hub_block SET source = 'revocation' WHERE kind = 'key' AND reason LIKE 'revoked by its issuer: %';
ALTER TABLE hub_block DROP CONSTRAINT hub_block_pkey, ADD PRIMARY KEY (sha256, kind, source);
