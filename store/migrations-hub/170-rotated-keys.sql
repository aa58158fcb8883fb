-- CA keys that a party signed with, or signs with, beside the first one that its ledger names.
CREATE TABLE hub_ledger_ca (
  party text NOT NULL REFERENCES hub_ledger (party) ON DELETE CASCADE,
  ca    bytea NOT NULL,
  PRIMARY KEY (party, ca)
);
