-- Lots, devices, batches, issuance, handoffs, injection and installation. Digests and leaf hashes are lower-case hex.

CREATE TABLE lot (
  id text PRIMARY KEY,
  state text NOT NULL CHECK (state IN ('open', 'closed')),
  builder text NOT NULL,
  issuer text NOT NULL,
  slots integer NOT NULL CHECK (slots > 0),
  profile text NOT NULL,
  profile_sha256 text NOT NULL,
  -- slot n uses layouts[(n - 1) mod length]; each with its own digest and its template's
  layouts jsonb NOT NULL,
  origin text NOT NULL,
  leaf_hash text NOT NULL,
  opened timestamptz NOT NULL DEFAULT now()
);

-- A row of its own: every issuing transaction holds the lot's row FOR SHARE, and taking slots must not wait for them.
CREATE TABLE lot_slots (
  lot text PRIMARY KEY REFERENCES lot (id),
  slots integer NOT NULL,
  taken integer NOT NULL DEFAULT 0,
  CHECK (taken BETWEEN 0 AND slots)
);

-- What a station or a technician handed in. Histories carry its id alone.
CREATE TABLE batch (
  id text PRIMARY KEY,
  lot text NOT NULL REFERENCES lot (id),
  kind text NOT NULL CHECK (kind IN ('built', 'certify', 'install')),
  manifest bytea NOT NULL,
  manifest_sha256 text NOT NULL,
  key_id text NOT NULL,
  count integer NOT NULL CHECK (count > 0),
  -- CSRs as DER, or for installations canonical JSON of [device, place, time] with place and time as commitments; each
  -- behind its length (4 bytes, big-endian), since an array of bytea costs several times as much to read
  items bytea NOT NULL,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done')),
  received timestamptz NOT NULL DEFAULT now()
);
-- Random bytes don't compress: keep them out of line as they are.
ALTER TABLE batch ALTER COLUMN items SET STORAGE EXTERNAL;
CREATE INDEX batch_pending ON batch (received) WHERE state = 'pending';

CREATE TABLE batch_result (
  batch text NOT NULL REFERENCES batch (id),
  index integer NOT NULL,
  device text,
  code text,
  message text,
  PRIMARY KEY (batch, index),
  CHECK ((code IS NULL) = (message IS NULL)),
  CHECK (device IS NOT NULL OR code IS NOT NULL)
);

CREATE TABLE handoff (
  id text PRIMARY KEY,
  direction text NOT NULL CHECK (direction IN ('out', 'in')),
  lot text NOT NULL,
  peer text NOT NULL,
  -- out: releasing, released, closed; in: offered, open, received, refused
  state text NOT NULL CHECK (state IN ('releasing', 'released', 'closed', 'offered', 'open', 'received', 'refused')),
  count integer NOT NULL,
  list_root text NOT NULL,
  -- the list's items, canonical JSON; the lot as its opener described it
  list bytea NOT NULL,
  terms jsonb NOT NULL,
  discrepancies jsonb,
  -- the time this site's own act claims: fixed before it is signed, so that a retry signs the same statement
  time timestamptz NOT NULL,
  release_act bytea,
  release_leaf text,
  receipt_act bytea,
  receipt_leaf text,
  error_code text,
  error_message text
);

CREATE TABLE device (
  id text PRIMARY KEY,
  -- one device id a key, for good
  spki_sha256 text NOT NULL UNIQUE,
  lot text NOT NULL REFERENCES lot (id),
  slot integer NOT NULL,
  csr_sha256 text NOT NULL,
  csr bytea,
  stage text NOT NULL CHECK (stage IN ('built', 'received', 'certified', 'injected', 'installed')),
  -- false from the transaction that claims the device for a handoff, whatever becomes of the act and the envelope
  held boolean NOT NULL DEFAULT true,
  handoff text REFERENCES handoff (id),
  -- how the device came: built here, or received
  built boolean NOT NULL,
  -- the device's last act, as the next one names it
  prev jsonb NOT NULL,
  UNIQUE (lot, slot)
);
CREATE INDEX device_held ON device (lot) WHERE held;

-- One initial certificate a device and profile. The row exists, with the exact bytes to sign, before the HSM is asked;
-- `certificate` goes from NULL to the first signed result once, and nothing else is ever released.
CREATE TABLE issuance (
  device text NOT NULL REFERENCES device (id),
  profile text NOT NULL,
  lot text NOT NULL REFERENCES lot (id),
  csr_sha256 text NOT NULL,
  issuer_key_id text NOT NULL,
  serial text NOT NULL,
  tbs bytea NOT NULL,
  -- {leafHash, index, path}: the intent leaf and this TBS digest's place under its root
  intent jsonb NOT NULL,
  -- the manifest item that asked, as the certified record names it
  intake jsonb NOT NULL,
  grant_origin text NOT NULL,
  grant_leaf text NOT NULL,
  certificate bytea,
  certified_key text,
  certified_leaf text,
  -- true once the certified record is under a signed checkpoint
  released boolean NOT NULL DEFAULT false,
  created timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (device, profile),
  UNIQUE (issuer_key_id, serial),
  CHECK ((certificate IS NULL) = (certified_leaf IS NULL)),
  CHECK (NOT released OR certificate IS NOT NULL)
);
CREATE INDEX issuance_open ON issuance (created) WHERE certificate IS NULL;

CREATE TABLE injection_run (
  id text PRIMARY KEY,
  lot text NOT NULL REFERENCES lot (id),
  device_limit integer,
  state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done')),
  started timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE injection (
  device text PRIMARY KEY REFERENCES device (id),
  run text NOT NULL REFERENCES injection_run (id),
  receipt jsonb,
  image_path text,
  leaf_hash text,
  code text,
  message text,
  CHECK ((receipt IS NULL) = (code IS NOT NULL)),
  CHECK ((receipt IS NULL) = (leaf_hash IS NULL))
);
CREATE INDEX injection_by_run ON injection (run);

CREATE TABLE installation (
  device text PRIMARY KEY REFERENCES device (id),
  batch text NOT NULL REFERENCES batch (id),
  technician text NOT NULL,
  place text NOT NULL,
  time text NOT NULL,
  leaf_hash text NOT NULL
);

-- Personal values behind commitments. Deleting a row erases the value; every proof stands.
CREATE TABLE opening (
  commitment text PRIMARY KEY,
  domain text NOT NULL,
  salt text NOT NULL,
  value jsonb NOT NULL
);
