-- This site as a witness of other parties' logs: the last checkpoint cosigned, one row a log. It moves by compare-and-set.
CREATE TABLE witness_log (
  origin text PRIMARY KEY,
  size bigint NOT NULL CHECK (size >= 0),
  root bytea NOT NULL CHECK (octet_length(root) = 32),
  note bytea NOT NULL,
  cosigned timestamptz NOT NULL DEFAULT now()
);

-- Every checkpoint of another log that this site cosigned: what that party can't deny later.
CREATE TABLE witness_checkpoint (
  origin text NOT NULL,
  size bigint NOT NULL,
  note bytea NOT NULL,
  cosigned timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (origin, size)
);

-- What a log's own key signed and this witness refused: it may prove that the log shows two histories.
CREATE TABLE witness_evidence (
  id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  origin text NOT NULL,
  -- of the checkpoint's text
  sha256 bytea NOT NULL,
  reason text NOT NULL CHECK (reason IN ('fork', 'bad-proof')),
  -- the request's body, and the checkpoint that it was held against
  request bytea NOT NULL,
  known bytea,
  received timestamptz NOT NULL DEFAULT now(),
  UNIQUE (origin, reason, sha256)
);

-- Witnesses' cosignatures over this site's own checkpoints.
CREATE TABLE ledger_cosignature (
  size bigint NOT NULL REFERENCES ledger_checkpoint,
  name text NOT NULL,
  key_id text NOT NULL,
  -- u64 time and signature, as in the note's line
  signature bytea NOT NULL,
  -- seconds since 1970, by the witness's clock
  time bigint NOT NULL,
  PRIMARY KEY (size, name, key_id)
);

-- Checkpoints that a quorum has cosigned.
CREATE TABLE ledger_cosigned (
  size bigint PRIMARY KEY REFERENCES ledger_checkpoint,
  since timestamptz NOT NULL DEFAULT now()
);
