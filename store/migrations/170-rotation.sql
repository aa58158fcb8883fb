-- A CA's change of key. `closing`: another CA key is about to take effect, and nothing more is begun under this grant.
ALTER TABLE grant_received ADD COLUMN closing boolean NOT NULL DEFAULT false;

-- Which key of the CA's token a certificate is for.
ALTER TABLE ca_certificate ADD COLUMN label text NOT NULL DEFAULT 'ca';

-- What an operator of this site has asked for: one a grant, in whose place one for the new key is to come.
CREATE TABLE ca_rotation (
  supersedes text PRIMARY KEY REFERENCES grant_received (leaf_hash),
  label text NOT NULL,
  -- counted up when it is asked for again after a refusal
  attempt integer NOT NULL DEFAULT 1,
  state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'sent', 'accepted', 'refused')),
  old_spki bytea,
  new_spki bytea,
  old_proof bytea,
  new_proof bytea,
  effective_size bigint,
  requested_by text NOT NULL,
  requested timestamptz NOT NULL DEFAULT now(),
  error_code text,
  error_message text,
  CHECK ((old_proof IS NULL) = (new_proof IS NULL))
);
