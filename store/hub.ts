import { join } from "node:path";
import { migrate, type Db, type Queryable } from "./db.ts";

/** The hub's tables live in a database of their own; a site's migrations never run there, nor these in a site's. */
export function migrateHub(db: Db): Promise<void> {
  return migrate(db, join(import.meta.dirname, "migrations-hub"));
}

/** For its metrics: costs by what is open, not by what there is. */
export async function hubCounts(db: Queryable): Promise<{ cas: number; sightingsOpen: number }> {
  const { rows } = await db.query<{ cas: number; sightingsOpen: number }>(
    `SELECT (SELECT count(*) FROM hub_ca WHERE state = 'verified') AS cas,
            (SELECT count(*) FROM hub_sighting WHERE state IS NULL) AS "sightingsOpen"`,
  );
  return rows[0]!;
}

/** How many devices ever connected and how many messages there are, for the run's summary. */
export async function hubTotals(db: Queryable): Promise<{ devicesConnected: number; telemetry: number }> {
  const { rows } = await db.query<{ devicesConnected: number; telemetry: number }>(
    `SELECT (SELECT count(*) FROM hub_device WHERE first_connected_at IS NOT NULL) AS "devicesConnected",
            (SELECT count(*) FROM hub_telemetry) AS telemetry`,
  );
  return rows[0] ?? { devicesConnected: 0, telemetry: 0 };
}
