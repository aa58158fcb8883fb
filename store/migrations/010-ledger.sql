-- One ledger per party, and one party per database.

-- The durable head. size and root are what the log is committed to; a checkpoint over them may still be unsigned.
CREATE TABLE ledger_head (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  origin text NOT NULL,
  size bigint NOT NULL CHECK (size >= 0),
  root bytea NOT NULL CHECK (octet_length(root) = 32)
);

-- Every act by its retry key. The entry's bytes are stored here, once; the first stored win.
CREATE TABLE ledger_act (
  retry_key bytea PRIMARY KEY CHECK (octet_length(retry_key) = 32),
  type text NOT NULL,
  -- what is to be signed, fixed before the signer is asked; null for line records, whose entry it is
  statement bytea,
  entry bytea,
  leaf_hash bytea,
  prev bytea[] NOT NULL,
  refused text,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((entry IS NULL) = (leaf_hash IS NULL)),
  CHECK (statement IS NOT NULL OR entry IS NOT NULL),
  CHECK (octet_length(entry) <= 65535)
);
-- Not unique: the bytes hold the retry key, which is; and two writers of the same act must meet at that one constraint.
CREATE INDEX ledger_act_leaf_hash ON ledger_act (leaf_hash);
-- Acts are compressed nowhere: they are small, and the sequencer reads each once.
ALTER TABLE ledger_act ALTER COLUMN entry SET STORAGE EXTERNAL, ALTER COLUMN statement SET STORAGE EXTERNAL;

-- Acts that wait to be sequenced, in the order they were recorded.
CREATE TABLE ledger_pending (
  id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  retry_key bytea NOT NULL REFERENCES ledger_act
);

CREATE TABLE ledger_leaf (
  leaf_index bigint PRIMARY KEY,
  retry_key bytea NOT NULL UNIQUE REFERENCES ledger_act,
  leaf_hash bytea NOT NULL CHECK (octet_length(leaf_hash) = 32)
);

-- Hash tiles. A partial tile grows in place: each narrower one is its beginning.
CREATE TABLE ledger_tile (
  level smallint NOT NULL,
  tile_index bigint NOT NULL,
  hashes bytea NOT NULL CHECK (octet_length(hashes) BETWEEN 32 AND 8192 AND octet_length(hashes) % 32 = 0),
  PRIMARY KEY (level, tile_index)
);
ALTER TABLE ledger_tile ALTER COLUMN hashes SET STORAGE EXTERNAL;

CREATE TABLE ledger_checkpoint (
  size bigint PRIMARY KEY,
  root bytea NOT NULL,
  note bytea NOT NULL,
  signed_at timestamptz NOT NULL DEFAULT now()
);

-- What acts name by digest and don't hold: manifests, lists, infrastructure CAs.
CREATE TABLE ledger_blob (
  sha256 bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
  bytes bytea NOT NULL
);
