-- How many of a lot's devices have come how far, as sums of changes: whoever writes devices adds what the statement
-- changed, in the same transaction, and waits for nobody. Housekeeping folds a lot's rows into one.
CREATE TABLE lot_tally (
  id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  lot text NOT NULL,
  built bigint NOT NULL DEFAULT 0,
  received bigint NOT NULL DEFAULT 0,
  released bigint NOT NULL DEFAULT 0,
  certified bigint NOT NULL DEFAULT 0,
  installed bigint NOT NULL DEFAULT 0,
  injected bigint NOT NULL DEFAULT 0
);
CREATE INDEX lot_tally_lot ON lot_tally (lot, id);

INSERT INTO lot_tally (lot, built, received, released, certified, installed)
  SELECT lot, count(*) FILTER (WHERE built), count(*) FILTER (WHERE NOT built), count(*) FILTER (WHERE NOT held),
    count(*) FILTER (WHERE stage IN ('certified', 'injected', 'installed')), count(*) FILTER (WHERE stage = 'installed')
  FROM device GROUP BY lot;
INSERT INTO lot_tally (lot, injected)
  SELECT d.lot, count(*) FROM injection j JOIN device d ON d.id = j.device WHERE j.leaf_hash IS NOT NULL GROUP BY d.lot;

CREATE FUNCTION lot_tally_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO lot_tally (lot, built, received, released, certified, installed)
    SELECT lot, count(*) FILTER (WHERE built), count(*) FILTER (WHERE NOT built), count(*) FILTER (WHERE NOT held),
      count(*) FILTER (WHERE stage IN ('certified', 'injected', 'installed')), count(*) FILTER (WHERE stage = 'installed')
    FROM added GROUP BY lot;
  RETURN NULL;
END $$;

CREATE FUNCTION lot_tally_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO lot_tally (lot, built, received, released, certified, installed)
    SELECT lot, sum(n * built::int), sum(n * (NOT built)::int), sum(n * (NOT held)::int),
      sum(n * (stage IN ('certified', 'injected', 'installed'))::int), sum(n * (stage = 'installed')::int)
    FROM (SELECT 1 AS n, lot, built, held, stage FROM changed
      UNION ALL SELECT -1, lot, built, held, stage FROM was) both_sides
    GROUP BY lot;
  RETURN NULL;
END $$;

CREATE FUNCTION lot_tally_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO lot_tally (lot, built, received, released, certified, installed)
    SELECT lot, -count(*) FILTER (WHERE built), -count(*) FILTER (WHERE NOT built), -count(*) FILTER (WHERE NOT held),
      -count(*) FILTER (WHERE stage IN ('certified', 'injected', 'installed')), -count(*) FILTER (WHERE stage = 'installed')
    FROM was GROUP BY lot;
  RETURN NULL;
END $$;

CREATE FUNCTION lot_tally_injected() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO lot_tally (lot, injected)
    SELECT d.lot, count(*) FROM added j JOIN device d ON d.id = j.device WHERE j.leaf_hash IS NOT NULL GROUP BY d.lot;
  RETURN NULL;
END $$;

CREATE FUNCTION lot_tally_reinjected() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO lot_tally (lot, injected)
    SELECT d.lot, sum(n)
    FROM (SELECT 1 AS n, device FROM changed WHERE leaf_hash IS NOT NULL
      UNION ALL SELECT -1, device FROM was WHERE leaf_hash IS NOT NULL) j JOIN device d ON d.id = j.device
    GROUP BY d.lot;
  RETURN NULL;
END $$;

CREATE TRIGGER lot_tally_added AFTER INSERT ON device REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION lot_tally_added();
CREATE TRIGGER lot_tally_changed AFTER UPDATE ON device REFERENCING OLD TABLE AS was NEW TABLE AS changed
  FOR EACH STATEMENT EXECUTE FUNCTION lot_tally_changed();
CREATE TRIGGER lot_tally_removed AFTER DELETE ON device REFERENCING OLD TABLE AS was
  FOR EACH STATEMENT EXECUTE FUNCTION lot_tally_removed();
CREATE TRIGGER lot_tally_injected AFTER INSERT ON injection REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION lot_tally_injected();
CREATE TRIGGER lot_tally_reinjected AFTER UPDATE ON injection REFERENCING OLD TABLE AS was NEW TABLE AS changed
  FOR EACH STATEMENT EXECUTE FUNCTION lot_tally_reinjected();
