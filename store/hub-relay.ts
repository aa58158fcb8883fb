import type { Queryable } from "./db.ts";
import type { TwinValues } from "./hub-traffic.ts";

/** What one hub process has for a device that is connected to another one. */

/** Told on commit: `message:DEVICE`, `desired:VERSION:DEVICE`, `call:ID:DEVICE`, `settled:ID`. */
export const TRAFFIC_CHANNEL = "hub_traffic";

export interface DesiredPatch {
  version: number;
  patch: TwinValues;
}

/** Patches of the last minute above this version, in order. */
export async function readDesired(db: Queryable, deviceId: string, above: number): Promise<DesiredPatch[]> {
  const { rows } = await db.query<DesiredPatch>(
    "SELECT version, patch FROM hub_desired WHERE device_id = $1 AND version > $2 ORDER BY version",
    [deviceId, above],
  );
  return rows;
}

/** In the transaction that changes the twin. */
export async function insertDesired(db: Queryable, deviceId: string, { version, patch }: DesiredPatch): Promise<void> {
  await db.query("DELETE FROM hub_desired WHERE device_id = $1 AND created_at < now() - interval '1 minute'", [
    deviceId,
  ]);
  const sql = "INSERT INTO hub_desired (device_id, version, patch) VALUES ($1, $2, $3)";
  await db.query(sql, [deviceId, version, JSON.stringify(patch)]);
}

/** Devices that something is on its way to. */
export async function devicesWithTraffic(db: Queryable): Promise<string[]> {
  const { rows } = await db.query<{ id: string }>(
    "SELECT device_id AS id FROM hub_message UNION SELECT device_id FROM hub_desired",
  );
  return rows.map(({ id }) => id);
}

/** The process that let the device in last, if any did. */
export async function processOf(db: Queryable, deviceId: string): Promise<string | undefined> {
  const sql = "SELECT hub_process AS process FROM hub_device WHERE device_id = $1";
  return (await db.query<{ process: string | null }>(sql, [deviceId])).rows[0]?.process ?? undefined;
}

/** @param call.payload JSON */
export async function insertCall(
  db: Queryable,
  call: { id: string; deviceId: string; name: string; payload: string; timeoutMs: number },
): Promise<void> {
  // Those whose asker died.
  await db.query("DELETE FROM hub_call WHERE expires_at < now() - interval '1 minute'");
  await db.query(
    `INSERT INTO hub_call (id, device_id, name, payload, expires_at)
     VALUES ($1, $2, $3, $4, now() + $5 * interval '1 millisecond')`,
    [call.id, call.deviceId, call.name, call.payload, call.timeoutMs],
  );
}

export interface TakenCall {
  name: string;
  /** JSON */
  payload: string;
  /** milliseconds */
  left: number;
}

/** For one process alone; undefined when another one has it, or nobody waits for its answer any more. */
export async function takeCall(db: Queryable, id: string): Promise<TakenCall | undefined> {
  const { rows } = await db.query<TakenCall>(
    `UPDATE hub_call SET taken_at = now() WHERE id = $1 AND taken_at IS NULL AND expires_at > now()
     RETURNING name, payload, (extract(epoch FROM expires_at - now()) * 1000)::float8 AS left`,
    [id],
  );
  return rows[0];
}

/** @param answer JSON */
export async function answerCall(db: Queryable, id: string, status: number, answer: string): Promise<void> {
  await db.query("UPDATE hub_call SET status = $2, answer = $3 WHERE id = $1", [id, status, answer]);
}

export interface CallState {
  taken: boolean;
  status: number | null;
  /** JSON */
  answer: string | null;
}

export async function readCall(db: Queryable, id: string): Promise<CallState | undefined> {
  const sql = "SELECT taken_at IS NOT NULL AS taken, status, answer FROM hub_call WHERE id = $1";
  return (await db.query<CallState>(sql, [id])).rows[0];
}

/** @returns whether no process had taken it: then none will */
export async function withdrawCall(db: Queryable, id: string): Promise<boolean> {
  return (await db.query("DELETE FROM hub_call WHERE id = $1 AND taken_at IS NULL", [id])).rowCount === 1;
}

export async function deleteCall(db: Queryable, id: string): Promise<void> {
  await db.query("DELETE FROM hub_call WHERE id = $1", [id]);
}
