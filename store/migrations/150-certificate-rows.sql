-- For speed alone: what is stored and what is enforced stay as they are.

-- The first certificate of an intent in a row of its own, written once: as an update of the intent's row it rewrote all of
-- that, in room that was kept free for it, and the statement read the whole table as long as nobody had analysed it.
CREATE TABLE issuance_certificate (
  device text NOT NULL,
  profile text NOT NULL,
  certificate bytea NOT NULL,
  -- of its certified record
  retry_key bytea NOT NULL CHECK (octet_length(retry_key) = 32),
  leaf_hash bytea NOT NULL CHECK (octet_length(leaf_hash) = 32),
  PRIMARY KEY (device, profile)
);
ALTER TABLE issuance_certificate ALTER COLUMN certificate SET STORAGE EXTERNAL;
INSERT INTO issuance_certificate (device, profile, certificate, retry_key, leaf_hash)
  SELECT device, profile, certificate, decode(certified_key, 'hex'), decode(certified_leaf, 'hex')
  FROM issuance WHERE certificate IS NOT NULL;

DROP VIEW released_issuance;
ALTER TABLE issuance DROP COLUMN certificate, DROP COLUMN certified_key, DROP COLUMN certified_leaf;
ALTER TABLE issuance RENAME TO issuance_intent;
ALTER TABLE issuance_intent RESET (fillfactor);

-- Serials are random, and this site's own: the index needn't hold each one's issuer, which is as good as always the same.
CREATE UNIQUE INDEX issuance_serial ON issuance_intent (serial);
ALTER TABLE issuance_intent DROP CONSTRAINT issuance_issuer_key_id_serial_key;

-- Ranges are summarised by vacuum. Asked for at every insert into a new range, most requests are refused, one log line each.
ALTER INDEX issuance_created SET (autosummarize = off);

-- Intents, each with its certificate if it has one. By one look into the index each: until the tables were analysed the
-- planner would read all certificates for some hundred.
CREATE VIEW issuance AS
  SELECT i.*, c.certificate, c.certified_key, c.certified_leaf FROM issuance_intent i LEFT JOIN LATERAL (
    SELECT certificate, encode(retry_key, 'hex') AS certified_key, encode(leaf_hash, 'hex') AS certified_leaf
    FROM issuance_certificate c WHERE c.device = i.device AND c.profile = i.profile LIMIT 1) c ON true;

-- Those that may be shown: a signed checkpoint covers the certified record.
CREATE VIEW released_issuance AS
  SELECT i.* FROM issuance i JOIN ledger_leaf l ON l.retry_key = decode(i.certified_key, 'hex')
  WHERE l.leaf_index < (SELECT max(size) FROM ledger_checkpoint);
