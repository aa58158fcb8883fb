-- A page of the ledger's acts holds two of up to 4,080 bytes. What is larger had one to itself, half of it empty: the
-- certified records of a lot of more than 16,000 devices, whose places under the handoff's root are that long.
ALTER TABLE ledger_act SET (toast_tuple_target = 4080);
