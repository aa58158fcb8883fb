import type { Queryable } from "./db.ts";
import { packed } from "./packed.ts";

export interface TelemetryMessage {
  deviceId: string;
  system: Record<string, string>;
  properties: Record<string, string>;
  body: Uint8Array;
}

export interface StoredTelemetry extends TelemetryMessage {
  id: number;
  receivedAt: Date;
}

/** One statement, one commit: durable for all messages when it resolves, for none when it rejects. */
export async function insertTelemetry(db: Queryable, messages: readonly TelemetryMessage[]): Promise<void> {
  const bodies = packed(messages.map(({ body }) => body));
  await db.query({
    name: "hub-telemetry",
    text: `INSERT INTO hub_telemetry (device_id, system, properties, body)
     SELECT device_id, system::jsonb, properties::jsonb, substring($4::bytea FROM e - s + 1 FOR s)
     FROM unnest($1::text[], $2::text[], $3::text[], $5::int[], $6::int[]) AS m (device_id, system, properties, e, s)`,
    values: [
      messages.map(({ deviceId }) => deviceId),
      messages.map(({ system }) => JSON.stringify(system)),
      messages.map(({ properties }) => JSON.stringify(properties)),
      bodies.bytes,
      bodies.ends,
      bodies.sizes,
    ],
  });
}

/** The device's last messages, newest first. */
export async function listTelemetry(db: Queryable, deviceId: string, limit: number): Promise<StoredTelemetry[]> {
  const { rows } = await db.query<StoredTelemetry>(
    `SELECT id, device_id AS "deviceId", received_at AS "receivedAt", system, properties, body
     FROM hub_telemetry WHERE device_id = $1 ORDER BY id DESC LIMIT $2`,
    [deviceId, limit],
  );
  return rows;
}

/**
 * Of the oldest `limit` messages those that are older than `days`.
 * @returns how many went
 */
export async function dropTelemetry(db: Queryable, days: number, limit: number): Promise<number> {
  const { rowCount } = await db.query(
    `WITH oldest AS (SELECT id, received_at FROM hub_telemetry ORDER BY id LIMIT $2)
     DELETE FROM hub_telemetry WHERE id IN (
       SELECT id FROM oldest WHERE received_at < now() - make_interval(days => $1))`,
    [days, limit],
  );
  return rowCount ?? 0;
}

export async function countTelemetry(db: Queryable, deviceId: string): Promise<number> {
  const sql = "SELECT count(*) AS n FROM hub_telemetry WHERE device_id = $1";
  return (await db.query<{ n: number }>(sql, [deviceId])).rows[0]?.n ?? 0;
}
