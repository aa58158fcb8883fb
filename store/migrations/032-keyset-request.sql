-- The request that the keyset names as its CA key's proof: a later join, after a refused one, shows it again.
ALTER TABLE own_keyset ADD COLUMN request bytea;
