-- A grant's revisions: the child's CA certificate renewed, under the same key and terms. The row holds the last one.
ALTER TABLE delegation
  ADD COLUMN revision integer NOT NULL DEFAULT 1 CHECK (revision >= 1),
  ADD COLUMN superseded_leaf_hash text,
  ADD COLUMN superseded_certificate bytea,
  ADD CHECK ((revision = 1) = (superseded_leaf_hash IS NULL)),
  ADD CHECK ((revision = 1) = (superseded_certificate IS NULL));

-- Every earlier certificate of a child's CA: it stays good, and has to be revoked with the last one.
CREATE TABLE delegation_superseded (
  child text NOT NULL REFERENCES delegation (child),
  revision integer NOT NULL,
  leaf_hash text NOT NULL,
  certificate bytea NOT NULL,
  PRIMARY KEY (child, revision)
);
