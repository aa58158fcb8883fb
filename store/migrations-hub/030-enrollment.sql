-- Device provisioning: which registered CA's devices are given to this hub.
CREATE TABLE hub_enrollment_group (
  name       text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
  ca_name    text NOT NULL UNIQUE REFERENCES hub_ca (name) ON DELETE CASCADE,
  state      text NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled')),
  created_at timestamptz NOT NULL DEFAULT now()
);
