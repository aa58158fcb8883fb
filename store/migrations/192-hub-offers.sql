-- Codes that hubs gave for a CA whose key is offline: they wait for a ceremony to sign them. The last one given counts.
CREATE TABLE hub_offer (
  hub text NOT NULL,
  name text NOT NULL,
  place text NOT NULL,
  code text NOT NULL,
  given timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (hub, name, place)
);
