-- How far each of the site's hubs that follows no CRL (Azure's) knows of each recorded revocation step. Steps without a
-- row are yet to be told: also those that were recorded before the hub was configured.
CREATE TABLE hub_told (
  hub text NOT NULL,
  revocation bigint NOT NULL REFERENCES revocation (id),
  tried timestamptz NOT NULL DEFAULT now(),
  told timestamptz,
  -- the hub said no; otherwise it was out of reach
  refused boolean NOT NULL DEFAULT false,
  error_code text,
  error_message text,
  PRIMARY KEY (hub, revocation)
);

-- What this site keeps out at such a hub, and how it found it: what is lifted is given back as it was, and what somebody
-- else had disabled stays disabled. Written before the hub is asked.
CREATE TABLE hub_block (
  hub text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('device', 'enrollment', 'group')),
  name text NOT NULL,
  found text NOT NULL CHECK (found IN ('enabled', 'disabled', 'absent')),
  since timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (hub, kind, name)
);
