-- For speed alone: what is stored stays as it is, and what is enforced is enforced where it is written.

-- Digests and signatures, which don't compress.
ALTER TABLE batch ALTER COLUMN manifest SET STORAGE EXTERNAL;
ALTER TABLE outbox ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN envelope SET STORAGE EXTERNAL;
ALTER TABLE inbox ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN envelope SET STORAGE EXTERNAL;
ALTER TABLE handoff ALTER COLUMN list SET STORAGE EXTERNAL;

-- A foreign key looks its parent up, and locks it, once for every row. These parents are written or locked by the same
-- transaction just before, and never deleted.
ALTER TABLE batch_result DROP CONSTRAINT batch_result_batch_fkey;
ALTER TABLE issuance DROP CONSTRAINT issuance_device_fkey, DROP CONSTRAINT issuance_lot_fkey;

-- Places under a Merkle root as plain hashes, one behind the other: as JSON they were most of the row.
ALTER TABLE issuance
  ADD COLUMN intent_leaf text, ADD COLUMN intent_index integer, ADD COLUMN intent_path bytea,
  ADD COLUMN intake_digest text, ADD COLUMN intake_index integer, ADD COLUMN intake_path bytea;
UPDATE issuance SET
  intent_leaf = intent ->> 'leafHash', intent_index = (intent ->> 'index')::integer,
  intent_path = COALESCE((SELECT string_agg(decode(h, 'hex'), '' ORDER BY o)
    FROM jsonb_array_elements_text(intent -> 'path') WITH ORDINALITY AS p(h, o)), ''),
  intake_digest = intake ->> 'digest', intake_index = (intake ->> 'index')::integer,
  intake_path = COALESCE((SELECT string_agg(decode(h, 'hex'), '' ORDER BY o)
    FROM jsonb_array_elements_text(intake -> 'path') WITH ORDINALITY AS p(h, o)), '');
ALTER TABLE issuance
  DROP COLUMN intent, DROP COLUMN intake,
  ALTER COLUMN intent_leaf SET NOT NULL, ALTER COLUMN intent_index SET NOT NULL, ALTER COLUMN intent_path SET NOT NULL;

-- Released is what a signed checkpoint covers. A column that says so again would write every row once more.
ALTER TABLE issuance DROP COLUMN released;
CREATE VIEW released_issuance AS
  SELECT i.* FROM issuance i JOIN ledger_leaf l ON l.retry_key = decode(i.certified_key, 'hex')
  WHERE l.leaf_index < (SELECT max(size) FROM ledger_checkpoint);
