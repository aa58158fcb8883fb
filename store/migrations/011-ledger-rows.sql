-- For speed alone: what is stored stays as it is, and what is enforced is enforced where it is written.

-- Digests and signatures, which don't compress.
ALTER TABLE ledger_blob ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- A foreign key looks its parent up, and locks it, once for every row. The act is written by the same transaction, or is
-- in the tree's queue, and never deleted.
ALTER TABLE ledger_pending DROP CONSTRAINT ledger_pending_retry_key_fkey;
ALTER TABLE ledger_leaf DROP CONSTRAINT ledger_leaf_retry_key_fkey;

-- One row for all that was queued together, in its order: the retry keys one behind the other.
ALTER TABLE ledger_pending RENAME COLUMN retry_key TO retry_keys;
ALTER TABLE ledger_pending ALTER COLUMN retry_keys SET STORAGE EXTERNAL,
  ADD CHECK (octet_length(retry_keys) > 0 AND octet_length(retry_keys) % 32 = 0);
