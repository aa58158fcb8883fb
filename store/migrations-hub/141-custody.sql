-- What verified passports said of devices, for groups.

-- What passports are verified against, once an operator has said so.
CREATE TABLE hub_trust (
  one           boolean PRIMARY KEY DEFAULT true CHECK (one),
  root          bytea NOT NULL,
  policy        jsonb NOT NULL,
  policy_sha256 text NOT NULL CHECK (policy_sha256 ~ '^[0-9a-f]{64}$'),
  set_by        text NOT NULL,
  set_at        timestamptz NOT NULL DEFAULT now()
);

-- Also of devices that haven't come yet. Counts for the key that the passport is of, and under today's policy.
CREATE TABLE hub_custody (
  device_id       text PRIMARY KEY CHECK (device_id ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$'),
  key_sha256      text NOT NULL CHECK (key_sha256 ~ '^[0-9a-f]{64}$'),
  policy_sha256   text NOT NULL,
  passport_sha256 text NOT NULL,
  -- as lib/records/group-query.ts has them, times in milliseconds since 1970
  facts           jsonb NOT NULL,
  taken_by        text NOT NULL,
  taken_at        timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION hub_tell_custody() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('hub_registry', coalesce(NEW.device_id, OLD.device_id));
  RETURN NULL;
END $$;
CREATE TRIGGER hub_trust_told AFTER INSERT OR UPDATE OR DELETE ON hub_trust EXECUTE FUNCTION hub_tell_registry();
CREATE TRIGGER hub_custody_told AFTER INSERT OR UPDATE OR DELETE ON hub_custody
  FOR EACH ROW EXECUTE FUNCTION hub_tell_custody();
