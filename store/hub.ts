import { join } from "node:path";
import { CountersignError } from "../lib/domain/errors.ts";
import { type Db, migrate, type Queryable } from "./db.ts";
import { packed } from "./packed.ts";

/** The hub's tables live in a database of their own; a site's migrations never run there, nor these in a site's. */
export function migrateHub(db: Db): Promise<void> {
  return migrate(db, join(import.meta.dirname, "migrations-hub"));
}

export interface HubCa {
  name: string;
  state: "unverified" | "verified";
  /** DER; null until uploaded or verified. */
  certificate: Uint8Array | null;
  sha256: string | null;
  code: string;
  codeExpiresAt: Date;
  createdAt: Date;
  verifiedAt: Date | null;
  disabledAt: Date | null;
  /** Whether a device's first connect creates it, or it must have been created before. */
  enrolment: "first-connect" | "registered";
  /** What becomes of a device whose certificate no followed ledger holds. */
  unlogged: "allow" | "alarm" | "refuse";
  /** The name of the first of this CA's certificates: devices belong to all of them. */
  lineage: string;
}

const CA_COLUMNS = `name, state, certificate, sha256, code, code_expires_at AS "codeExpiresAt",
  created_at AS "createdAt", verified_at AS "verifiedAt", disabled_at AS "disabledAt", enrolment, unlogged, lineage`;

/**
 * Adds an unverified CA or, when the name is there unverified already, gives it the new code if the old one has
 * expired: asking twice gives the same code, so that a ceremony's input stays true.
 * @param offer.succeeds a verified CA whose devices this one has too, under its terms; disabled if that one is
 * @throws CountersignError `already-exists` when it is verified, `state-conflict` when another certificate was uploaded,
 *   `not-found` when there is no such predecessor
 */
export async function offerCa(
  db: Queryable,
  offer: {
    name: string;
    code: string;
    codeExpiresAt: Date;
    certificate?: Uint8Array;
    sha256?: string;
    succeeds?: string | undefined;
  },
): Promise<HubCa> {
  const earlier = offer.succeeds === undefined ? undefined : await findCa(db, offer.succeeds);
  if (offer.succeeds !== undefined && earlier?.state !== "verified") {
    throw new CountersignError("not-found", `the hub has no verified CA ${offer.succeeds} to be succeeded`);
  }
  const taken = await db.query("SELECT 1 FROM hub_ca WHERE lineage = $1 AND name <> $1", [offer.name]);
  if (earlier === undefined && taken.rowCount !== 0) {
    throw new CountersignError(
      "state-conflict",
      `${offer.name} names a CA whose later certificates are here: take another`,
    );
  }
  const { rows } = await db.query<HubCa>(
    `INSERT INTO hub_ca (name, state, certificate, sha256, code, code_expires_at, lineage, enrolment, unlogged,
       disabled_at)
     VALUES ($1, 'unverified', $2, $3, $4, $5, coalesce($6, $1), coalesce($7, 'first-connect'), coalesce($8, 'alarm'),
       $9)
     ON CONFLICT (name) DO UPDATE SET
       code = CASE WHEN hub_ca.code_expires_at > now() THEN hub_ca.code ELSE excluded.code END,
       code_expires_at = CASE WHEN hub_ca.code_expires_at > now()
         THEN hub_ca.code_expires_at ELSE excluded.code_expires_at END,
       certificate = coalesce(hub_ca.certificate, excluded.certificate),
       sha256 = coalesce(hub_ca.sha256, excluded.sha256),
       lineage = excluded.lineage,
       -- An entry that joins a lineage takes its terms on, also if it was asked for alone before.
       enrolment = CASE WHEN $6::text IS NULL THEN hub_ca.enrolment ELSE excluded.enrolment END,
       unlogged = CASE WHEN $6::text IS NULL THEN hub_ca.unlogged ELSE excluded.unlogged END,
       disabled_at = CASE WHEN $6::text IS NULL THEN hub_ca.disabled_at ELSE excluded.disabled_at END
     WHERE hub_ca.state = 'unverified'
       AND (hub_ca.sha256 IS NULL OR excluded.sha256 IS NULL OR hub_ca.sha256 = excluded.sha256)
     RETURNING ${CA_COLUMNS}`,
    [
      offer.name,
      offer.certificate ?? null,
      offer.sha256 ?? null,
      offer.code,
      offer.codeExpiresAt,
      earlier?.lineage ?? null,
      earlier?.enrolment ?? null,
      earlier?.unlogged ?? null,
      earlier?.disabledAt ?? null,
    ],
  );
  const row = rows[0];
  if (row !== undefined) return row;
  const existing = await findCa(db, offer.name);
  if (existing?.state === "verified") {
    throw new CountersignError("already-exists", `the hub already has a verified CA named ${offer.name}`);
  }
  throw new CountersignError("state-conflict", `another certificate was uploaded for the CA ${offer.name}`);
}

export async function findCa(db: Queryable, name: string): Promise<HubCa | undefined> {
  return (await db.query<HubCa>(`SELECT ${CA_COLUMNS} FROM hub_ca WHERE name = $1`, [name])).rows[0];
}

export async function listCas(db: Queryable): Promise<HubCa[]> {
  return (await db.query<HubCa>(`SELECT ${CA_COLUMNS} FROM hub_ca ORDER BY name`)).rows;
}

export async function countCas(db: Queryable): Promise<number> {
  return (await db.query<{ n: number }>("SELECT count(*) AS n FROM hub_ca")).rows[0]?.n ?? 0;
}

/**
 * Turns an unverified CA into a verified one. The code is part of the condition, so a code replaced meanwhile doesn't
 * count.
 * @throws CountersignError `already-exists` when this certificate is verified under another name; `state-conflict`
 */
export async function verifyCa(
  db: Queryable,
  proven: { name: string; code: string; certificate: Uint8Array; sha256: string },
): Promise<HubCa> {
  try {
    const { rows } = await db.query<HubCa>(
      `UPDATE hub_ca SET state = 'verified', certificate = $3, sha256 = $4, verified_at = now()
       WHERE name = $1 AND code = $2 AND state = 'unverified' AND code_expires_at > now()
       RETURNING ${CA_COLUMNS}`,
      [proven.name, proven.code, proven.certificate, proven.sha256],
    );
    const row = rows[0];
    if (row !== undefined) return row;
  } catch (cause) {
    if ((cause as { code?: string }).code !== "23505") throw cause;
    const message = "this CA certificate is already registered and verified under another name";
    throw new CountersignError("already-exists", message, { cause });
  }
  throw new CountersignError("state-conflict", `the CA ${proven.name} was changed meanwhile; look at it and try again`);
}

/** Undefined when there is no such CA. */
export async function setCaDisabled(db: Queryable, name: string, disabled: boolean): Promise<HubCa | undefined> {
  const { rows } = await db.query<HubCa>(
    `UPDATE hub_ca SET disabled_at = CASE WHEN $2 THEN coalesce(disabled_at, now()) END WHERE name = $1
     RETURNING ${CA_COLUMNS}`,
    [name, disabled],
  );
  return rows[0];
}

/** Undefined when there is no such CA. */
export async function setCaEnrolment(
  db: Queryable,
  name: string,
  enrolment: HubCa["enrolment"],
): Promise<HubCa | undefined> {
  return setTerm(db, name, "enrolment", enrolment);
}

/** Undefined when there is no such CA. */
export async function setCaUnlogged(
  db: Queryable,
  name: string,
  unlogged: HubCa["unlogged"],
): Promise<HubCa | undefined> {
  return setTerm(db, name, "unlogged", unlogged);
}

/** A lineage has its terms in common: a device could come with the certificate that is less strict. */
async function setTerm(
  db: Queryable,
  name: string,
  term: "enrolment" | "unlogged",
  value: string,
): Promise<HubCa | undefined> {
  const { rows } = await db.query<HubCa>(
    `UPDATE hub_ca SET ${term} = $2 WHERE name = $1 OR lineage = (SELECT lineage FROM hub_ca WHERE name = $1)
     RETURNING ${CA_COLUMNS}`,
    [name, value],
  );
  return rows.find((ca) => ca.name === name);
}

/**
 * False when there is no such CA.
 * @throws CountersignError `state-conflict` while devices of it are here: another owner of its name would have them
 */
export async function removeCa(db: Queryable, name: string): Promise<boolean> {
  try {
    return (await db.query("DELETE FROM hub_ca WHERE name = $1", [name])).rowCount === 1;
  } catch (cause) {
    if ((cause as { code?: string }).code !== "23503") throw cause;
    const message = `devices of the CA ${name} are registered here: disable it, or remove them first`;
    throw new CountersignError("state-conflict", message, { cause });
  }
}

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

export interface ValidatedConnect {
  deviceId: string;
  caName: string;
  /** of that CA */
  lineage: string;
  keySha256: string;
  chain: readonly ChainLink[];
  enrolment: HubCa["enrolment"];
  /** of the hub process that lets it in */
  processId: string;
}

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
     WHERE hub_device.state = 'enabled'
       AND (hub_device.ca_name IS NULL OR hub_device.ca_name = excluded.ca_name
         OR (SELECT lineage FROM hub_ca WHERE name = hub_device.ca_name)
            = (SELECT lineage FROM hub_ca WHERE name = excluded.ca_name))
       AND coalesce(hub_device.key_sha256, excluded.key_sha256) = excluded.key_sha256
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

async function whyRefused(db: Queryable, connect: ValidatedConnect): Promise<CountersignError> {
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

/** Its telemetry stays. False when there is no such device. */
export async function removeDevice(db: Queryable, deviceId: string): Promise<boolean> {
  return (await db.query("DELETE FROM hub_device WHERE device_id = $1", [deviceId])).rowCount === 1;
}

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
