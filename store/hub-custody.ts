import type { DeviceFacts } from "../lib/records/group-query.ts";
import type { Policy } from "../lib/records/policy.ts";
import type { Queryable } from "./db.ts";

/** What passports are verified against. */
export interface HubTrust {
  /** DER */
  root: Uint8Array;
  policy: Policy;
  policySha256: string;
  setBy: string;
  setAt: Date;
}

const TRUST_COLUMNS = `root, policy, policy_sha256 AS "policySha256", set_by AS "setBy", set_at AS "setAt"`;

export async function readTrust(db: Queryable): Promise<HubTrust | undefined> {
  return (await db.query<HubTrust>(`SELECT ${TRUST_COLUMNS} FROM hub_trust`)).rows[0];
}

export async function putTrust(db: Queryable, trust: Omit<HubTrust, "setAt">): Promise<HubTrust> {
  const { rows } = await db.query<HubTrust>(
    `INSERT INTO hub_trust (root, policy, policy_sha256, set_by) VALUES ($1, $2, $3, $4)
     ON CONFLICT (one) DO UPDATE SET root = excluded.root, policy = excluded.policy,
       policy_sha256 = excluded.policy_sha256, set_by = excluded.set_by, set_at = now()
     RETURNING ${TRUST_COLUMNS}`,
    [trust.root, JSON.stringify(trust.policy), trust.policySha256, trust.setBy],
  );
  return rows[0]!;
}

/** What a verified passport said. */
export interface Custody {
  deviceId: string;
  /** SHA-256 of the SPKI of the key that it is of */
  keySha256: string;
  policySha256: string;
  passportSha256: string;
  facts: DeviceFacts;
  /** of the ledgers it is proven against, by origin */
  sizes: Record<string, number>;
  takenBy: string;
  takenAt: Date;
}

const COLUMNS = `c.device_id AS "deviceId", c.key_sha256 AS "keySha256", c.policy_sha256 AS "policySha256",
  c.passport_sha256 AS "passportSha256", c.facts, c.sizes, c.taken_by AS "takenBy", c.taken_at AS "takenAt"`;

/**
 * Takes the place of what an earlier passport said. Undefined when a later one of this key was verified under the same
 * policy: a ledger that it is proven against was longer then.
 */
export async function putCustody(db: Queryable, custody: Omit<Custody, "takenAt">): Promise<Custody | undefined> {
  const { rows } = await db.query<Custody>(
    `INSERT INTO hub_custody AS c (device_id, key_sha256, policy_sha256, passport_sha256, facts, sizes, taken_by)
     VALUES ($1, $2, $3, $4, $5, $6, $7)
     ON CONFLICT (device_id) DO UPDATE SET key_sha256 = excluded.key_sha256,
       policy_sha256 = excluded.policy_sha256, passport_sha256 = excluded.passport_sha256, facts = excluded.facts,
       sizes = excluded.sizes, taken_by = excluded.taken_by, taken_at = now()
     WHERE c.key_sha256 <> excluded.key_sha256 OR c.policy_sha256 <> excluded.policy_sha256 OR NOT EXISTS (
       SELECT FROM jsonb_each_text(c.sizes) AS had
       WHERE had.value::bigint > coalesce((excluded.sizes ->> had.key)::bigint, 0))
     RETURNING ${COLUMNS}`,
    [
      custody.deviceId,
      custody.keySha256,
      custody.policySha256,
      custody.passportSha256,
      JSON.stringify(custody.facts),
      JSON.stringify(custody.sizes),
      custody.takenBy,
    ],
  );
  return rows[0];
}

/** By device ID; what was verified under another policy than today's isn't known any more. */
export async function readCustody(db: Queryable, deviceIds: readonly string[]): Promise<Map<string, Custody>> {
  const { rows } = await db.query<Custody>(
    `SELECT ${COLUMNS} FROM hub_custody c JOIN hub_trust USING (policy_sha256) WHERE c.device_id = ANY($1)`,
    [deviceIds],
  );
  return new Map(rows.map((row) => [row.deviceId, row]));
}

/** The same for devices that the hub has, of the key that each connects with. */
export async function readDeviceCustody(db: Queryable, deviceIds: readonly string[]): Promise<Map<string, Custody>> {
  const { rows } = await db.query<Custody>(
    `SELECT ${COLUMNS} FROM hub_custody c JOIN hub_trust USING (policy_sha256)
       JOIN hub_device d ON d.device_id = c.device_id AND coalesce(d.key_sha256, c.key_sha256) = c.key_sha256
     WHERE c.device_id = ANY($1)`,
    [deviceIds],
  );
  return new Map(rows.map((row) => [row.deviceId, row]));
}

export async function removeCustody(db: Queryable, deviceId: string): Promise<boolean> {
  return (await db.query("DELETE FROM hub_custody WHERE device_id = $1", [deviceId])).rowCount === 1;
}
