import { CountersignError } from "../lib/domain/errors.ts";
import { type Db, inTransaction, type Queryable } from "./db.ts";
import { insertDesired } from "./hub-relay.ts";

export type TwinPart = "desired" | "reported";
export type TwinValues = Record<string, unknown>;

export interface Twin {
  desired: TwinValues;
  desiredVersion: number;
  reported: TwinValues;
  reportedVersion: number;
}

const TWIN_COLUMNS = `desired, desired_version AS "desiredVersion", reported, reported_version AS "reportedVersion"`;
const NEW_TWIN: Twin = { desired: {}, desiredVersion: 1, reported: {}, reportedVersion: 1 };

/** A device that has none yet has an empty one of version 1. */
export async function readTwin(db: Queryable, deviceId: string): Promise<Twin> {
  const { rows } = await db.query<Twin>(`SELECT ${TWIN_COLUMNS} FROM hub_twin WHERE device_id = $1`, [deviceId]);
  return rows[0] ?? NEW_TWIN;
}

/**
 * Changes one part of a device's twin under its row's lock, so that two patches never lose each other's values. A patch
 * of what is desired is told to the hub process that has the device.
 * @param change gives the new values; what it throws leaves the twin as it was
 * @throws CountersignError `not-found` when the hub has no such device
 */
export function updateTwin(
  db: Db,
  deviceId: string,
  part: TwinPart,
  patch: TwinValues,
  change: (values: TwinValues, patch: TwinValues) => TwinValues,
): Promise<Twin> {
  return inTransaction(db, async (tx) => {
    await tx.query(
      `INSERT INTO hub_twin (device_id) SELECT device_id FROM hub_device WHERE device_id = $1 ON CONFLICT DO NOTHING`,
      [deviceId],
    );
    const sql = `SELECT ${TWIN_COLUMNS} FROM hub_twin WHERE device_id = $1 FOR UPDATE`;
    const twin = (await tx.query<Twin>(sql, [deviceId])).rows[0];
    if (twin === undefined) throw new CountersignError("not-found", `the hub has no device ${deviceId}`);
    const { rows } = await tx.query<Twin>(
      `UPDATE hub_twin SET ${part} = $2, ${part}_version = ${part}_version + 1 WHERE device_id = $1
       RETURNING ${TWIN_COLUMNS}`,
      [deviceId, JSON.stringify(change(twin[part], patch))],
    );
    const changed = rows[0] ?? twin;
    if (part === "desired") await insertDesired(tx, deviceId, { version: changed.desiredVersion, patch });
    return changed;
  });
}

export interface DeviceMessage {
  /** Names as on the wire: `$.mid`, `$.ct`, ... */
  system: Record<string, string>;
  properties: Record<string, string>;
  body: Uint8Array;
}

export interface StoredMessage extends DeviceMessage {
  id: number;
  enqueuedAt: Date;
  expiresAt: Date;
  /** How often it was handed to the device. */
  deliveries: number;
}

const MESSAGE_COLUMNS = `id, system, properties, body, enqueued_at AS "enqueuedAt", expires_at AS "expiresAt", deliveries`;

/** As IoT Hub has them. */
export const MAX_QUEUED = 50;
export const MAX_DELIVERIES = 10;

/** @throws CountersignError `not-found`; `quota-exceeded` when the device's queue is full */
export function enqueueMessage(
  db: Db,
  deviceId: string,
  message: DeviceMessage & { expiresAt: Date },
): Promise<StoredMessage> {
  return inTransaction(db, async (tx) => {
    const sql = "SELECT device_id FROM hub_device WHERE device_id = $1 FOR UPDATE";
    if ((await tx.query(sql, [deviceId])).rowCount === 0) {
      throw new CountersignError("not-found", `the hub has no device ${deviceId}`);
    }
    // What nobody can take any more makes room.
    await tx.query("DELETE FROM hub_message WHERE device_id = $1 AND (expires_at <= now() OR deliveries >= $2)", [
      deviceId,
      MAX_DELIVERIES,
    ]);
    const { rows } = await tx.query<StoredMessage>(
      `INSERT INTO hub_message (device_id, system, properties, body, expires_at)
       SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM hub_message WHERE device_id = $1) < $6
       RETURNING ${MESSAGE_COLUMNS}`,
      [
        deviceId,
        JSON.stringify(message.system),
        JSON.stringify(message.properties),
        Buffer.from(message.body),
        message.expiresAt,
        MAX_QUEUED,
      ],
    );
    if (rows[0] !== undefined) return rows[0];
    throw new CountersignError("quota-exceeded", `${MAX_QUEUED} messages already wait for the device ${deviceId}`);
  });
}

/** The oldest that can still be delivered and aren't on their way; counts the delivery that is about to happen. */
export async function takeMessages(
  db: Queryable,
  deviceId: string,
  options: { except: readonly number[]; limit: number },
): Promise<StoredMessage[]> {
  const { rows } = await db.query<StoredMessage>(
    `UPDATE hub_message SET deliveries = deliveries + 1
     WHERE id IN (SELECT id FROM hub_message WHERE device_id = $1 AND expires_at > now() AND deliveries < $2
                    AND id <> ALL($3::bigint[]) ORDER BY id LIMIT $4)
     RETURNING ${MESSAGE_COLUMNS}`,
    [deviceId, MAX_DELIVERIES, options.except, options.limit],
  );
  return rows.sort((a, b) => a.id - b.id);
}

export async function deleteMessage(db: Queryable, id: number): Promise<void> {
  await db.query("DELETE FROM hub_message WHERE id = $1", [id]);
}

/** What waits for the device, oldest first; what was delivered too often or is too old no longer waits. */
export async function listMessages(db: Queryable, deviceId: string): Promise<StoredMessage[]> {
  const { rows } = await db.query<StoredMessage>(
    `SELECT ${MESSAGE_COLUMNS} FROM hub_message WHERE device_id = $1 AND expires_at > now() AND deliveries < $2
     ORDER BY id`,
    [deviceId, MAX_DELIVERIES],
  );
  return rows;
}

/** How many there were. */
export async function purgeMessages(db: Queryable, deviceId: string): Promise<number> {
  return (await db.query("DELETE FROM hub_message WHERE device_id = $1", [deviceId])).rowCount ?? 0;
}

export interface StoredSubscription {
  topic: string;
  qos: 0 | 1;
}

export async function readSubscriptions(db: Queryable, deviceId: string): Promise<StoredSubscription[]> {
  const sql = "SELECT subscriptions FROM hub_session WHERE device_id = $1";
  return (await db.query<{ subscriptions: StoredSubscription[] }>(sql, [deviceId])).rows[0]?.subscriptions ?? [];
}

/** Of each device, in the order asked. */
export async function readSubscriptionsOf(
  db: Queryable,
  deviceIds: readonly string[],
): Promise<StoredSubscription[][]> {
  const { rows } = await db.query<{ deviceId: string; subscriptions: StoredSubscription[] }>({
    name: "hub-subscriptions",
    text: `SELECT device_id AS "deviceId", subscriptions FROM hub_session WHERE device_id = ANY($1)`,
    values: [deviceIds],
  });
  const known = new Map(rows.map(({ deviceId, subscriptions }) => [deviceId, subscriptions]));
  return deviceIds.map((id) => known.get(id) ?? []);
}

/** An empty list forgets the session. A device removed meanwhile has none. */
export async function writeSubscriptions(
  db: Queryable,
  deviceId: string,
  subscriptions: readonly StoredSubscription[],
): Promise<void> {
  if (subscriptions.length === 0) {
    await db.query("DELETE FROM hub_session WHERE device_id = $1", [deviceId]);
    return;
  }
  await db.query(
    `INSERT INTO hub_session (device_id, subscriptions) SELECT device_id, $2 FROM hub_device WHERE device_id = $1
     ON CONFLICT (device_id) DO UPDATE SET subscriptions = excluded.subscriptions`,
    [deviceId, JSON.stringify(subscriptions)],
  );
}
