import type { Queryable } from "./db.ts";

/** PostgreSQL channel: the IDs of devices, a space between, whose state changed or that were removed; '' when CAs, blocks or CRLs changed. */
export const REGISTRY_CHANNEL = "hub_registry";

export interface HubBlock {
  kind: "certificate" | "key";
  /** of the certificate's DER, or of its SubjectPublicKeyInfo; lower-case hex */
  sha256: string;
  /** by hand, or as a site's word that it has revoked it: the site takes back its own alone, an operator both at once */
  source: "operator" | "revocation";
  name: string | null;
  reason: string;
  blockedBy: string;
  createdAt: Date;
}

const BLOCK_COLUMNS = `kind, sha256, source, name, reason, blocked_by AS "blockedBy", created_at AS "createdAt"`;

/** Blocks it, or leaves the block that is there. */
export async function addBlock(db: Queryable, block: Omit<HubBlock, "createdAt">): Promise<HubBlock> {
  const { rows } = await db.query<HubBlock>(
    `INSERT INTO hub_block (kind, sha256, source, name, reason, blocked_by) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (sha256, kind, source) DO UPDATE SET kind = hub_block.kind RETURNING ${BLOCK_COLUMNS}`,
    [block.kind, block.sha256, block.source, block.name, block.reason, block.blockedBy],
  );
  return rows[0]!;
}

/** In order of their making. */
export async function listBlocks(db: Queryable): Promise<HubBlock[]> {
  return (await db.query<HubBlock>(`SELECT ${BLOCK_COLUMNS} FROM hub_block ORDER BY created_at, sha256`)).rows;
}

/**
 * Of either kind; of either source unless one is named.
 * @returns false when nothing is blocked so under this digest
 */
export async function removeBlock(db: Queryable, sha256: string, source?: HubBlock["source"]): Promise<boolean> {
  const sql = "DELETE FROM hub_block WHERE sha256 = $1 AND ($2::text IS NULL OR source = $2)";
  return ((await db.query(sql, [sha256, source ?? null])).rowCount ?? 0) > 0;
}

export interface FollowedCrl {
  name: string;
  url: string | null;
  /** DER certificate */
  issuer: Uint8Array;
  /** of its DER, lower-case hex; null before the first */
  sha256: string | null;
  thisUpdate: Date | null;
  nextUpdate: Date | null;
  fault: string | null;
  lookedAt: Date | null;
}

const CRL_COLUMNS = `name, url, issuer, crl_sha256 AS sha256, this_update AS "thisUpdate", next_update AS "nextUpdate", fault,
  looked_at AS "lookedAt"`;

/** Follows a CA's CRL. Under a name that is there already: its URL is replaced, and its CRL kept unless the issuer differs. */
export async function followCrl(
  db: Queryable,
  followed: { name: string; url: string | null; issuer: Uint8Array },
): Promise<void> {
  await db.query(
    `INSERT INTO hub_crl (name, url, issuer) VALUES ($1, $2, $3)
     ON CONFLICT (name) DO UPDATE SET url = coalesce(excluded.url, hub_crl.url), issuer = excluded.issuer, fault = NULL,
       crl = CASE WHEN hub_crl.issuer = excluded.issuer THEN hub_crl.crl END,
       this_update = CASE WHEN hub_crl.issuer = excluded.issuer THEN hub_crl.this_update END,
       next_update = CASE WHEN hub_crl.issuer = excluded.issuer THEN hub_crl.next_update END`,
    [followed.name, followed.url, followed.issuer],
  );
}

/**
 * Follows what a site said is its CA's CRL, under a name that holds the CA's key: what is known by that key's signature
 * stays known, also when the CA's certificate was renewed.
 */
export async function followSiteCrl(
  db: Queryable,
  followed: { name: string; url: string; issuer: Uint8Array },
): Promise<void> {
  await db.query(
    `INSERT INTO hub_crl (name, url, issuer) VALUES ($1, $2, $3)
     ON CONFLICT (name) DO UPDATE SET url = excluded.url, issuer = excluded.issuer
       WHERE hub_crl.url IS DISTINCT FROM excluded.url OR hub_crl.issuer <> excluded.issuer`,
    [followed.name, followed.url, followed.issuer],
  );
}

export async function listCrls(db: Queryable): Promise<FollowedCrl[]> {
  return (await db.query<FollowedCrl>(`SELECT ${CRL_COLUMNS} FROM hub_crl ORDER BY name`)).rows;
}

/** DER, by name: those of these that have one. */
export async function readCrls(db: Queryable, names: readonly string[]): Promise<Map<string, Uint8Array>> {
  if (names.length === 0) return new Map();
  const sql = "SELECT name, crl FROM hub_crl WHERE name = ANY($1) AND crl IS NOT NULL";
  const { rows } = await db.query<{ name: string; crl: Uint8Array }>(sql, [names]);
  return new Map(rows.map(({ name, crl }) => [name, crl]));
}

/** Those that have a URL, without their bytes. */
export async function crlsToFetch(db: Queryable): Promise<{ name: string; url: string }[]> {
  const sql = "SELECT name, url FROM hub_crl WHERE url IS NOT NULL ORDER BY name";
  return (await db.query<{ name: string; url: string }>(sql)).rows;
}

export async function findCrl(db: Queryable, name: string): Promise<FollowedCrl | undefined> {
  return (await db.query<FollowedCrl>(`SELECT ${CRL_COLUMNS} FROM hub_crl WHERE name = $1`, [name])).rows[0];
}

/**
 * Keeps a CRL whose signature the caller has checked, unless one as new is there: an older one would let in again who
 * was revoked since.
 * @returns whether it was kept
 */
export async function storeCrl(
  db: Queryable,
  name: string,
  crl: { der: Uint8Array; thisUpdate: Date; nextUpdate: Date; number: bigint | undefined; issuer: Uint8Array },
): Promise<boolean> {
  const { rowCount } = await db.query(
    `UPDATE hub_crl SET crl = $2, this_update = $3, next_update = $4, number = $6, fault = NULL, looked_at = now()
     WHERE name = $1 AND issuer = $5 AND (this_update IS NULL OR this_update < $3 OR
       (this_update = $3 AND COALESCE(number, -1) < $6::numeric))`,
    [name, crl.der, crl.thisUpdate, crl.nextUpdate, crl.issuer, (crl.number ?? 0n).toString()],
  );
  return rowCount === 1;
}

/** @param fault null: it is as it was */
export async function noteLook(db: Queryable, name: string, fault: string | null): Promise<void> {
  await db.query("UPDATE hub_crl SET fault = $2, looked_at = now() WHERE name = $1", [name, fault]);
}

export async function unfollowCrl(db: Queryable, name: string): Promise<boolean> {
  return (await db.query("DELETE FROM hub_crl WHERE name = $1", [name])).rowCount === 1;
}

/** Those of these devices that are still let in, and at this hub process: one that another has let in since is there. */
export async function enabledAmong(
  db: Queryable,
  deviceIds: readonly string[],
  processId: string,
): Promise<Set<string>> {
  const { rows } = await db.query<{ id: string }>(
    "SELECT device_id AS id FROM hub_device WHERE device_id = ANY($1) AND state = 'enabled' AND hub_process = $2",
    [deviceIds, processId],
  );
  return new Set(rows.map(({ id }) => id));
}
