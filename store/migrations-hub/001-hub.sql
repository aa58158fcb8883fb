-- The hub's own database: registered CAs, devices seen, telemetry. No site's tables, and no site has these.

CREATE TABLE hub_ca (
  name            text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
  state           text NOT NULL CHECK (state IN ('unverified', 'verified')),
  -- Known from the start only when it was uploaded first; a root born in a ceremony comes with its verification.
  certificate     bytea,
  sha256          text,
  code            text NOT NULL UNIQUE,
  code_expires_at timestamptz NOT NULL,
  created_at      timestamptz NOT NULL DEFAULT now(),
  verified_at     timestamptz,
  CHECK ((certificate IS NULL) = (sha256 IS NULL)),
  CHECK (state = 'unverified' OR (certificate IS NOT NULL AND verified_at IS NOT NULL))
);
-- One verified name per CA: two owners can't both answer for the devices below it.
CREATE UNIQUE INDEX hub_ca_verified ON hub_ca (sha256) WHERE state = 'verified';

CREATE TABLE hub_device (
  device_id          text PRIMARY KEY CHECK (device_id ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$'),
  state              text NOT NULL CHECK (state IN ('enabled', 'disabled')),
  created_at         timestamptz NOT NULL DEFAULT now(),
  -- Bound at the first connect: another registered CA can't take over its ID.
  ca_name            text REFERENCES hub_ca (name),
  first_connected_at timestamptz,
  last_connected_at  timestamptz,
  -- Leaf first, the registered CA last: [{sha256, commonName, serial, notAfter}]
  chain              jsonb,
  CHECK ((ca_name IS NULL) = (first_connected_at IS NULL)),
  CHECK ((ca_name IS NULL) = (chain IS NULL))
);

CREATE TABLE hub_telemetry (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  device_id   text NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  -- System properties ($.mid, $.ct, ...) and the sender's own, as decoded from the topic.
  system      jsonb NOT NULL,
  properties  jsonb NOT NULL,
  body        bytea NOT NULL
);
CREATE INDEX hub_telemetry_device ON hub_telemetry (device_id, id);
