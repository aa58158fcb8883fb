-- Who is kept out, and how every hub process hears of it.
ALTER TABLE hub_ca ADD COLUMN disabled_at timestamptz;
-- first-connect: a device is created when it first comes with a valid chain; registered: only if it was created before.
ALTER TABLE hub_ca ADD COLUMN enrolment text NOT NULL DEFAULT 'first-connect'
  CHECK (enrolment IN ('first-connect', 'registered'));

-- Certificates and keys that an operator keeps out, wherever in a chain they stand.
CREATE TABLE hub_block (
  kind       text NOT NULL CHECK (kind IN ('certificate', 'key')),
  -- SHA-256 of the certificate's DER, or of the SubjectPublicKeyInfo
  sha256     text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
  name       text,
  reason     text NOT NULL CHECK (length(reason) <= 200),
  blocked_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sha256, kind)
);

-- The newest genuine CRL of each CA that is followed, fetched from its URL or handed in.
CREATE TABLE hub_crl (
  name        text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
  url         text,
  issuer      bytea NOT NULL,
  crl         bytea,
  this_update timestamptz,
  next_update timestamptz,
  -- why the last one that was fetched wasn't taken
  fault       text,
  looked_at   timestamptz,
  CHECK ((crl IS NULL) = (this_update IS NULL) AND (crl IS NULL) = (next_update IS NULL))
);

-- Told on commit: the device's ID, or nothing when CAs, blocks or CRLs have changed.
CREATE FUNCTION hub_tell_registry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('hub_registry', '');
  RETURN NULL;
END $$;
CREATE FUNCTION hub_tell_device() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('hub_registry', OLD.device_id);
  RETURN NULL;
END $$;
CREATE TRIGGER hub_ca_told AFTER INSERT OR UPDATE OR DELETE ON hub_ca EXECUTE FUNCTION hub_tell_registry();
CREATE TRIGGER hub_block_told AFTER INSERT OR UPDATE OR DELETE ON hub_block EXECUTE FUNCTION hub_tell_registry();
CREATE TRIGGER hub_crl_told AFTER INSERT OR UPDATE OF crl OR DELETE ON hub_crl EXECUTE FUNCTION hub_tell_registry();
-- Not every connect: only what may end one.
CREATE TRIGGER hub_device_state_told AFTER UPDATE OF state ON hub_device
  FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION hub_tell_device();
CREATE TRIGGER hub_device_removed_told AFTER DELETE ON hub_device FOR EACH ROW EXECUTE FUNCTION hub_tell_device();
