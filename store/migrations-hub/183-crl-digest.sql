-- Which list is there, without reading it: one may have 16 MiB.
ALTER TABLE hub_crl ADD COLUMN crl_sha256 text GENERATED ALWAYS AS (encode(sha256(crl), 'hex')) STORED;
