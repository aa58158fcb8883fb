-- What goes to a device and what it says about itself. All of it goes with the device.

CREATE TABLE hub_twin (
  device_id        text PRIMARY KEY REFERENCES hub_device ON DELETE CASCADE,
  desired          jsonb NOT NULL DEFAULT '{}',
  desired_version  bigint NOT NULL DEFAULT 1,
  reported         jsonb NOT NULL DEFAULT '{}',
  reported_version bigint NOT NULL DEFAULT 1
);

-- Cloud-to-device messages; a row goes when the device has acknowledged it.
CREATE TABLE hub_message (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  device_id   text NOT NULL REFERENCES hub_device ON DELETE CASCADE,
  system      jsonb NOT NULL,
  properties  jsonb NOT NULL,
  body        bytea NOT NULL,
  enqueued_at timestamptz NOT NULL DEFAULT now(),
  expires_at  timestamptz NOT NULL,
  deliveries  integer NOT NULL DEFAULT 0
);
CREATE INDEX hub_message_device ON hub_message (device_id, id);

-- Subscriptions of MQTT sessions that outlive their connection, and a restart of the hub: [{topic, qos}]
CREATE TABLE hub_session (
  device_id     text PRIMARY KEY REFERENCES hub_device ON DELETE CASCADE,
  subscriptions jsonb NOT NULL
);
