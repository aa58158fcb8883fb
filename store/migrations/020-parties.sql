-- Parties, what crosses between them, what they granted each other, and the CA's own paper.

-- This site's own public keys and the act that published them. One row.
CREATE TABLE own_keyset (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  keyset jsonb NOT NULL,
  origin text NOT NULL,
  leaf_hash text NOT NULL,
  entry bytea NOT NULL,
  infrastructure bytea NOT NULL
);

-- A party that this site exchanges envelopes with. The act key is pinned: by the invitation (parent) or the join (child).
CREATE TABLE peer (
  party text PRIMARY KEY,
  direction text NOT NULL CHECK (direction IN ('parent', 'child')),
  contact jsonb NOT NULL,
  act_spki bytea NOT NULL,
  act_key_id text NOT NULL,
  added timestamptz NOT NULL DEFAULT now(),
  -- the last envelope signed for this peer; the outbox alone moves it
  out_epoch integer NOT NULL DEFAULT 1,
  out_sequence integer NOT NULL DEFAULT 0,
  out_digest text,
  -- the last envelope taken from this peer; moves in the transaction that stores the envelope
  in_epoch integer NOT NULL DEFAULT 1,
  in_sequence integer NOT NULL DEFAULT 0,
  in_digest text
);

-- Issued by this site. The nonce itself is only in the file that was handed over.
CREATE TABLE invitation (
  id uuid PRIMARY KEY,
  party text NOT NULL,
  nonce_sha256 text NOT NULL UNIQUE,
  expires timestamptz NOT NULL,
  created timestamptz NOT NULL DEFAULT now(),
  spent timestamptz,
  spent_by uuid
);

-- Taken by this site: one for each parent. Holds the nonce so that histories don't.
CREATE TABLE enrolment (
  parent text PRIMARY KEY,
  invitation jsonb NOT NULL,
  state text NOT NULL DEFAULT 'invited' CHECK (state IN ('invited', 'joined', 'accepted', 'refused')),
  csr bytea,
  delegation uuid,
  error_code text,
  error_message text,
  created timestamptz NOT NULL DEFAULT now()
);

-- A child that asks for (and then holds) this site's grant.
CREATE TABLE delegation (
  child text PRIMARY KEY,
  state text NOT NULL DEFAULT 'joined' CHECK (state IN ('joined', 'requested', 'issued', 'accepted', 'refused')),
  invitation uuid NOT NULL REFERENCES invitation (id),
  nonce_sha256 text NOT NULL,
  csr bytea NOT NULL,
  csr_sha256 text NOT NULL,
  keyset jsonb NOT NULL,
  keyset_origin text NOT NULL,
  keyset_leaf_hash text NOT NULL,
  keyset_entry bytea NOT NULL,
  infrastructure bytea NOT NULL,
  -- what the operator asked for, and whether the ceremony or the online CA key signs
  terms jsonb,
  signer text CHECK (signer IN ('ceremony', 'site')),
  certificate bytea,
  act_origin text,
  act_leaf_hash text,
  act_entry bytea,
  acceptance_leaf_hash text,
  acceptance_entry bytea,
  error_code text,
  error_message text,
  joined timestamptz NOT NULL DEFAULT now()
);

-- What waits for delivery. A row is put in by the transaction that causes it, unsigned; the outbox numbers, signs and
-- sends it. Only a row with an envelope has a sequence number; a refused one gives its number back.
CREATE TABLE outbox (
  id uuid PRIMARY KEY,
  ordinal bigint GENERATED ALWAYS AS IDENTITY,
  receiver text NOT NULL REFERENCES peer (party),
  type text NOT NULL,
  retry_key text NOT NULL UNIQUE,
  in_reply_to uuid,
  body bytea NOT NULL,
  body_sha256 text NOT NULL,
  state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'delivered', 'refused')),
  epoch integer,
  sequence integer,
  envelope bytea,
  envelope_sha256 text,
  created timestamptz NOT NULL DEFAULT now(),
  delivered timestamptz,
  error_code text,
  error_message text,
  CHECK ((envelope IS NULL) = (sequence IS NULL))
);
CREATE UNIQUE INDEX outbox_sequence ON outbox (receiver, epoch, sequence) WHERE state <> 'refused';
CREATE INDEX outbox_queued ON outbox (receiver, ordinal) WHERE state = 'queued';

-- What arrived, once for each sender, epoch and sequence. `applied` is set when the receiver's workflow has it.
CREATE TABLE inbox (
  sender text NOT NULL REFERENCES peer (party),
  epoch integer NOT NULL,
  sequence integer NOT NULL,
  id uuid NOT NULL UNIQUE,
  type text NOT NULL,
  in_reply_to uuid,
  envelope bytea NOT NULL,
  envelope_sha256 text NOT NULL,
  body bytea NOT NULL,
  received timestamptz NOT NULL DEFAULT now(),
  applied timestamptz,
  error_code text,
  PRIMARY KEY (sender, epoch, sequence)
);
CREATE INDEX inbox_unapplied ON inbox (received) WHERE applied IS NULL;

-- Grants that this site holds. At most one is current; its row is the quota counter.
CREATE TABLE grant_received (
  leaf_hash text PRIMARY KEY,
  origin text NOT NULL,
  parent text NOT NULL,
  entry bytea NOT NULL,
  fields jsonb NOT NULL,
  certificate bytea NOT NULL,
  upstream bytea[] NOT NULL,
  quota bigint NOT NULL,
  used bigint NOT NULL DEFAULT 0,
  current boolean NOT NULL,
  received timestamptz NOT NULL DEFAULT now(),
  CHECK (used <= quota)
);
CREATE UNIQUE INDEX grant_current ON grant_received (current) WHERE current;

-- SHA-256 of the root certificate this site trusts: the first delegation's, or the own ceremony's.
CREATE TABLE root_pin (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  certificate bytea NOT NULL,
  sha256 text NOT NULL
);

-- CA certificates of this site's own keys (the root's, or the online CA's), by key id.
CREATE TABLE ca_certificate (
  key_id text PRIMARY KEY,
  role text NOT NULL CHECK (role IN ('root', 'ca')),
  certificate bytea NOT NULL,
  added timestamptz NOT NULL DEFAULT now()
);

-- CRLs of those keys; the highest number is served.
CREATE TABLE crl (
  key_id text NOT NULL,
  number bigint NOT NULL,
  der bytea NOT NULL,
  this_update timestamptz NOT NULL,
  next_update timestamptz NOT NULL,
  PRIMARY KEY (key_id, number)
);

-- The exact bytes that a CA key is about to sign, stored before it is asked. The first stored result is the only one.
CREATE TABLE ca_intent (
  id text PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('root', 'intermediate', 'hub-verification', 'crl')),
  profile text NOT NULL,
  issuer_key_id text NOT NULL,
  subject_key_id text,
  -- canonical JSON of what the bytes were made from
  request jsonb NOT NULL,
  tbs bytea NOT NULL,
  created timestamptz NOT NULL DEFAULT now(),
  result bytea,
  signed timestamptz
);

-- One ceremony a party: the reviewed document, byte for byte.
CREATE TABLE ceremony (
  id text PRIMARY KEY,
  document bytea NOT NULL,
  sha256 text NOT NULL,
  state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'signed', 'done')),
  act_origin text,
  act_leaf_hash text,
  created timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE hub_registration (
  name text PRIMARY KEY,
  state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'verified', 'registered', 'refused')),
  ca_sha256 text,
  error_code text,
  error_message text,
  created timestamptz NOT NULL DEFAULT now()
);
