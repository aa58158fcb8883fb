-- Of two CRLs of one second the later one is told by its number.
ALTER TABLE hub_crl ADD COLUMN number numeric;
