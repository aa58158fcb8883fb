-- By which a child's CA key said that another takes its place: for a root's sitting, which takes no database's word for it.
ALTER TABLE delegation ADD COLUMN rotation_proof bytea;
