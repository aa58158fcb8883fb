-- The hub as a monitor: what it has learnt from the parties' ledgers, and what is wrong with them.
CREATE TABLE hub_ledger (
  party       text PRIMARY KEY,
  -- the newest checkpoint that was verified and continues all before, and how far its entries were taken in
  note        bytea,
  size        bigint NOT NULL DEFAULT 0,
  next        bigint NOT NULL DEFAULT 0,
  ca          bytea,
  act         bytea,
  -- of the last look
  state       text CHECK (state IN ('followed', 'refused', 'behind', 'unreachable')),
  error       text,
  looked_at   timestamptz,
  -- begun then, the last look that came to the ledger's end
  followed_at timestamptz
);

-- Certificates that a ledger holds, by the SHA-256 of their DER.
CREATE TABLE hub_logged (
  sha256 bytea PRIMARY KEY,
  party  text NOT NULL,
  entry  bigint NOT NULL
);
CREATE TABLE hub_slot (
  lot    text NOT NULL,
  slot   bigint NOT NULL,
  party  text NOT NULL,
  entry  bigint NOT NULL,
  sha256 bytea NOT NULL,
  PRIMARY KEY (lot, slot)
);
CREATE TABLE hub_witness (
  party        text NOT NULL,
  name         text NOT NULL,
  size         bigint NOT NULL,
  time         bigint,
  behind_since bigint,
  PRIMARY KEY (party, name)
);
CREATE TABLE hub_alarm (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  code     text NOT NULL,
  party    text NOT NULL,
  subject  text NOT NULL,
  message  text NOT NULL,
  entry    bigint,
  evidence jsonb,
  since    timestamptz NOT NULL DEFAULT now(),
  told     boolean NOT NULL DEFAULT false,
  UNIQUE (code, party, subject)
);

-- Certificates that devices came with and no ledger was known to hold: looked for again, round by round.
CREATE TABLE hub_unlogged (
  sha256      bytea PRIMARY KEY,
  certificate bytea NOT NULL,
  ca_name     text NOT NULL,
  first_seen  timestamptz NOT NULL DEFAULT now(),
  looked_at   timestamptz
);

-- What becomes of a device whose certificate no followed ledger holds.
ALTER TABLE hub_ca ADD COLUMN unlogged text NOT NULL DEFAULT 'alarm' CHECK (unlogged IN ('allow', 'alarm', 'refuse'));
