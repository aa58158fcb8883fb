import { CountersignError } from "../lib/domain/errors.ts";
import { inTransaction, type Db, type Queryable } from "./db.ts";
import type { HubCa } from "./hub-cas.ts";
import { REGISTRY_CHANNEL } from "./hub-revocations.ts";

/** The hub's devices, and what their last connect showed. */

export interface ChainLink {
  /** SHA-256 of the DER, lower-case hex. */
  sha256: string;
  commonName: string | null;
  serial: string;
  /** RFC 3339 UTC. */
  notAfter: string;
}

export interface HubDevice {
  deviceId: string;
  state: "enabled" | "disabled";
  createdAt: Date;
  /** Whose device this is, once it was provisioned or has connected. */
  caName: string | null;
  /** of its CA */
  lineage: string | null;
  firstConnectedAt: Date | null;
  lastConnectedAt: Date | null;
  chain: ChainLink[] | null;
}

const DEVICE_COLUMNS = `device_id AS "deviceId", state, created_at AS "createdAt", ca_name AS "caName",
  first_connected_at AS "firstConnectedAt", last_connected_at AS "lastConnectedAt", chain,
  (SELECT lineage FROM hub_ca WHERE hub_ca.name = hub_device.ca_name) AS lineage`;

/** What a chain that holds says of its device, which has proven the key. */
export interface ValidatedDevice {
  deviceId: string;
  caName: string;
  /** of that CA */
  lineage: string;
  keySha256: string;
}

export interface ValidatedConnect extends ValidatedDevice {
  chain: readonly ChainLink[];
  enrolment: HubCa["enrolment"];
  /** of the hub process that lets it in */
  processId: string;
}

/** Who has an ID keeps it: another certificate of its CA may come for it, no other CA and no other key. */
const ITS_OWN = `hub_device.state = 'enabled'
       AND (hub_device.ca_name IS NULL OR hub_device.ca_name = excluded.ca_name
         OR (SELECT lineage FROM hub_ca WHERE name = hub_device.ca_name)
            = (SELECT lineage FROM hub_ca WHERE name = excluded.ca_name))
       AND coalesce(hub_device.key_sha256, excluded.key_sha256) = excluded.key_sha256`;

/**
 * Records connects whose chains were validated, in one commit; creates each device on its first one. Nothing changes for
 * one that is refused.
 * @returns in the order asked: undefined, or CountersignError `hub-device-disabled`, `hub-device-unregistered`, or
 *   `hub-device-mismatch` when the ID belongs to another CA's device or to another key: a device keeps its key for good,
 *   until it is removed here
 */
export async function admitDevices(
  db: Queryable,
  connects: readonly ValidatedConnect[],
): Promise<(CountersignError | undefined)[]> {
  const answers: (CountersignError | undefined)[] = [];
  // One statement can't change a row twice: a device that comes twice at once goes into the next.
  let left = connects.map((connect, index) => ({ connect, index }));
  while (left.length > 0) {
    const now = new Map<string, (typeof left)[number]>();
    const later: typeof left = [];
    for (const one of left) {
      if (now.has(one.connect.deviceId)) later.push(one);
      else now.set(one.connect.deviceId, one);
    }
    const admitted = await upsertDevices(
      db,
      [...now.values()].map(({ connect }) => connect),
    );
    for (const { connect, index } of now.values()) {
      answers[index] = admitted.has(connect.deviceId) ? undefined : await whyRefused(db, connect);
    }
    left = later;
  }
  return answers;
}

/** @returns whom it let in */
async function upsertDevices(db: Queryable, connects: readonly ValidatedConnect[]): Promise<Set<string>> {
  const { rows } = await db.query<{ deviceId: string }>({
    name: "hub-admit",
    // In one order everywhere: two hub processes must not wait for each other's rows.
    text: `INSERT INTO hub_device (device_id, state, ca_name, first_connected_at, last_connected_at, chain, key_sha256,
       hub_process)
     SELECT device_id, 'enabled', ca_name, now(), now(), chain::jsonb, key_sha256, hub_process
     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::uuid[])
       AS asked (device_id, ca_name, chain, key_sha256, enrolment, hub_process)
     WHERE enrolment = 'first-connect'
       OR EXISTS (SELECT FROM hub_device known WHERE known.device_id = asked.device_id)
     ORDER BY device_id
     ON CONFLICT (device_id) DO UPDATE SET
       ca_name = excluded.ca_name,
       first_connected_at = coalesce(hub_device.first_connected_at, excluded.first_connected_at),
       last_connected_at = excluded.last_connected_at,
       chain = excluded.chain,
       key_sha256 = excluded.key_sha256,
       hub_process = excluded.hub_process
     WHERE ${ITS_OWN}
     RETURNING device_id AS "deviceId"`,
    values: [
      connects.map(({ deviceId }) => deviceId),
      connects.map(({ caName }) => caName),
      connects.map(({ chain }) => JSON.stringify(chain)),
      connects.map(({ keySha256 }) => keySha256),
      connects.map(({ enrolment }) => enrolment),
      connects.map(({ processId }) => processId),
    ],
  });
  return new Set(rows.map(({ deviceId }) => deviceId));
}

/**
 * Makes a provisioned device known, and its ID that of its CA and key before it first connects.
 * @throws CountersignError `hub-device-disabled`, `hub-device-mismatch` as {@link admitDevices}
 */
export async function enrollDevice(db: Queryable, device: ValidatedDevice): Promise<void> {
  const { rowCount } = await db.query(
    `INSERT INTO hub_device (device_id, state, ca_name, key_sha256) VALUES ($1, 'enabled', $2, $3)
     ON CONFLICT (device_id) DO UPDATE SET ca_name = excluded.ca_name, key_sha256 = excluded.key_sha256
     WHERE ${ITS_OWN}`,
    [device.deviceId, device.caName, device.keySha256],
  );
  if (rowCount === 0) throw await whyRefused(db, device);
}

async function whyRefused(db: Queryable, connect: ValidatedDevice): Promise<CountersignError> {
  const existing = await findDevice(db, connect.deviceId);
  if (existing?.state === "disabled") {
    return new CountersignError("hub-device-disabled", `the device ${connect.deviceId} is disabled on this hub`);
  }
  if (existing === undefined) {
    const message = `the device ${connect.deviceId} isn't registered, and devices of ${connect.caName} must be first`;
    return new CountersignError("hub-device-unregistered", message);
  }
  const whose =
    existing.lineage === connect.lineage
      ? "with another key: if its board was replaced, remove the device here first"
      : `of another registered CA (${existing.caName ?? "?"})`;
  const message = `the ID ${connect.deviceId} belongs to a device ${whose}`;
  return new CountersignError("hub-device-mismatch", message);
}

/** @throws CountersignError `already-exists` */
export async function createDevice(db: Queryable, deviceId: string): Promise<HubDevice> {
  const { rows } = await db.query<HubDevice>(
    `INSERT INTO hub_device (device_id, state) VALUES ($1, 'enabled') ON CONFLICT DO NOTHING RETURNING ${DEVICE_COLUMNS}`,
    [deviceId],
  );
  const row = rows[0];
  if (row === undefined) throw new CountersignError("already-exists", `the hub already knows the device ${deviceId}`);
  return row;
}

export async function findDevice(db: Queryable, deviceId: string): Promise<HubDevice | undefined> {
  return (await db.query<HubDevice>(`SELECT ${DEVICE_COLUMNS} FROM hub_device WHERE device_id = $1`, [deviceId]))
    .rows[0];
}

/** In order of device ID, those after `after`. */
export async function listDevices(db: Queryable, page: { after: string; limit: number }): Promise<HubDevice[]> {
  const { rows } = await db.query<HubDevice>(
    `SELECT ${DEVICE_COLUMNS} FROM hub_device WHERE device_id COLLATE "C" > $1 ORDER BY device_id COLLATE "C" LIMIT $2`,
    [page.after, page.limit],
  );
  return rows;
}

/** Undefined when there is no such device. */
export async function setDeviceState(
  db: Queryable,
  deviceId: string,
  state: HubDevice["state"],
): Promise<HubDevice | undefined> {
  const { rows } = await db.query<HubDevice>(
    `UPDATE hub_device SET state = $2 WHERE device_id = $1 RETURNING ${DEVICE_COLUMNS}`,
    [deviceId, state],
  );
  return rows[0];
}

/**
 * Many at once, in one commit, told to the hub processes in few notifications.
 * @returns those of them that are here
 */
export async function setDeviceStates(
  db: Db,
  deviceIds: readonly string[],
  state: HubDevice["state"],
): Promise<Set<string>> {
  return inTransaction(db, async (tx) => {
    await tx.query("SELECT set_config('countersign.told_together', 'on', true)");
    const { rows } = await tx.query<{ deviceId: string }>(
      // In the order in which connects lock them.
      `WITH known AS (SELECT device_id FROM hub_device WHERE device_id = ANY($1) ORDER BY device_id FOR UPDATE)
       UPDATE hub_device SET state = $2 FROM known WHERE hub_device.device_id = known.device_id
       RETURNING hub_device.device_id AS "deviceId"`,
      [deviceIds, state],
    );
    const here = rows.map(({ deviceId }) => deviceId);
    await tx.query("SELECT pg_notify($1, ids) FROM unnest($2::text[]) AS ids", [REGISTRY_CHANNEL, packed(here)]);
    return new Set(here);
  });
}

/** 65 octets each at most, and PostgreSQL takes payloads of less than 8,000. */
const IDS_A_NOTIFICATION = 120;

function packed(deviceIds: readonly string[]): string[] {
  const packs = Math.ceil(deviceIds.length / IDS_A_NOTIFICATION);
  return Array.from({ length: packs }, (_, i) =>
    deviceIds.slice(i * IDS_A_NOTIFICATION, (i + 1) * IDS_A_NOTIFICATION).join(" "),
  );
}

/** Its telemetry stays. False when there is no such device. */
export async function removeDevice(db: Queryable, deviceId: string): Promise<boolean> {
  return (await db.query("DELETE FROM hub_device WHERE device_id = $1", [deviceId])).rowCount === 1;
}
