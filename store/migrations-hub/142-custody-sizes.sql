-- Sizes of the ledgers that the passport was proven against, by origin: an earlier passport doesn't take a later one's place.
ALTER TABLE hub_custody ADD COLUMN sizes jsonb NOT NULL DEFAULT '{}';
