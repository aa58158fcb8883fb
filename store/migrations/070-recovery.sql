-- What a running copy of the ledger has to look for: blobs of transactions that weren't over at its last look.
ALTER TABLE ledger_blob ADD COLUMN added xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX ledger_blob_added ON ledger_blob (added);

-- Of acts that come back from the ledger nobody knows which batch or run they came from.
ALTER TABLE installation ALTER COLUMN batch DROP NOT NULL;
ALTER TABLE injection ALTER COLUMN run DROP NOT NULL;
