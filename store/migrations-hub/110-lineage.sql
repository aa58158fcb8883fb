-- A CA's certificates, renewed or with a new key: one lineage, named by its first. Its devices, its enrollment group and
-- groups by `ca` are the lineage's, whichever of its certificates a device comes with.
ALTER TABLE hub_ca ADD COLUMN lineage text;
UPDATE hub_ca SET lineage = name;
ALTER TABLE hub_ca ALTER COLUMN lineage SET NOT NULL;
CREATE INDEX hub_ca_lineage ON hub_ca (lineage);
