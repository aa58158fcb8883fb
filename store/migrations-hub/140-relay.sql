-- Several hub processes on one database: what is for a device reaches it at whichever process it is connected to.

-- The process that let it in last; another one that still holds a connection of it ends that.
ALTER TABLE hub_device ADD COLUMN hub_process uuid;
CREATE TRIGGER hub_device_moved_told AFTER UPDATE OF hub_process ON hub_device
  FOR EACH ROW WHEN (OLD.hub_process <> NEW.hub_process) EXECUTE FUNCTION hub_tell_device();

-- Patches of desired properties on their way to connected devices; an older one than a minute has arrived or never will.
CREATE TABLE hub_desired (
  device_id  text NOT NULL REFERENCES hub_device ON DELETE CASCADE,
  version    bigint NOT NULL,
  patch      jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (device_id, version)
);

-- Method calls of one process for a device at another. Lost with a crash of the database, as the connections are.
CREATE UNLOGGED TABLE hub_call (
  id         text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{24}$'),
  device_id  text NOT NULL,
  name       text NOT NULL,
  -- JSON as text: jsonb has no NUL
  payload    text NOT NULL,
  expires_at timestamptz NOT NULL,
  taken_at   timestamptz,
  status     integer,
  answer     text,
  CHECK ((status IS NULL) = (answer IS NULL))
);

-- KIND:REFERENCE, told on commit; bodies stay in their rows.
CREATE FUNCTION hub_tell_message() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('hub_traffic', 'message:' || NEW.device_id);
  RETURN NULL;
END $$;
CREATE FUNCTION hub_tell_desired() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('hub_traffic', 'desired:' || NEW.version || ':' || NEW.device_id);
  RETURN NULL;
END $$;
CREATE FUNCTION hub_tell_call() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM pg_notify('hub_traffic', 'call:' || NEW.id || ':' || NEW.device_id);
  ELSE
    PERFORM pg_notify('hub_traffic', 'settled:' || NEW.id);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER hub_message_told AFTER INSERT ON hub_message FOR EACH ROW EXECUTE FUNCTION hub_tell_message();
CREATE TRIGGER hub_desired_told AFTER INSERT ON hub_desired FOR EACH ROW EXECUTE FUNCTION hub_tell_desired();
CREATE TRIGGER hub_call_told AFTER INSERT OR UPDATE ON hub_call FOR EACH ROW EXECUTE FUNCTION hub_tell_call();
