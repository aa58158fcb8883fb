-- Why an intent will never be signed. Its device, slot and quota stay taken.
ALTER TABLE issuance ADD COLUMN abandoned text CHECK (abandoned IS NULL OR certificate IS NULL);
