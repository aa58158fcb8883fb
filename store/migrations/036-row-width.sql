-- For speed alone: what is stored and what is enforced stay as they are.

-- Every update of a row that an index's condition looks at writes every index of the table anew, and the condition is
-- passed by all of a lot's rows within seconds: what such an index held was mostly dead entries, which grew with the lot.
-- Intents without a certificate are looked for seldom, and by reading the table.
DROP INDEX issuance_open;

-- Rows of 2 to 4 KB, most of it digests and signatures, which don't compress: they stay in the table as they are, instead
-- of being tried for compression and cut into a second table.
ALTER TABLE issuance SET (toast_tuple_target = 8160);
ALTER TABLE ledger_act SET (toast_tuple_target = 8160);

-- Room beside a row for its next version: then no index is written when a device moves on, its certificate comes or is
-- released.
ALTER TABLE device SET (fillfactor = 60);
ALTER TABLE issuance SET (fillfactor = 50);
