-- Which checkpoint a witness cosigned last.
CREATE INDEX ledger_cosignature_witness ON ledger_cosignature (name, key_id, size DESC);
