import type { Queryable } from "./db.ts";

/** Witnesses' cosignatures over this site's own checkpoints. */

/** Sent with the size when a quorum has cosigned a checkpoint. */
export const COSIGNED_CHANNEL = "ledger_cosigned";

export interface StoredCosignature {
  readonly name: string;
  /** 8 hex digits */
  readonly keyId: string;
  readonly signature: Uint8Array;
  /** seconds since 1970, by the witness's clock */
  readonly time: number;
}

/** A later one by the same witness over the same checkpoint changes nothing: the first bounds the time best. */
export async function storeCosignature(q: Queryable, size: number, line: StoredCosignature): Promise<void> {
  await q.query(
    `INSERT INTO ledger_cosignature (size, name, key_id, signature, time) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT DO NOTHING`,
    [size, line.name, line.keyId, line.signature, line.time],
  );
}

export async function cosignaturesOf(q: Queryable, size: number): Promise<StoredCosignature[]> {
  const { rows } = await q.query<StoredCosignature>(
    `SELECT name, key_id AS "keyId", signature, time FROM ledger_cosignature WHERE size = $1 ORDER BY name, key_id`,
    [size],
  );
  return rows;
}

/** The newest checkpoint that a witness has cosigned. */
export async function lastCosignedBy(
  q: Queryable,
  witness: { name: string; keyId: string },
): Promise<{ size: number; time: number } | undefined> {
  const { rows } = await q.query<{ size: number; time: number }>(
    "SELECT size, time FROM ledger_cosignature WHERE name = $1 AND key_id = $2 ORDER BY size DESC LIMIT 1",
    [witness.name, witness.keyId],
  );
  return rows[0];
}

/** A quorum has cosigned it: wakes who waits for that. */
export async function markCosigned(q: Queryable, size: number): Promise<void> {
  await q.query(
    `WITH marked AS (INSERT INTO ledger_cosigned (size) VALUES ($1) ON CONFLICT DO NOTHING RETURNING size)
     SELECT pg_notify('${COSIGNED_CHANNEL}', size::text) FROM marked`,
    [size],
  );
}

/** The newest checkpoint that a quorum has cosigned. */
export async function newestCosigned(q: Queryable): Promise<number | undefined> {
  const { rows } = await q.query<{ size: number | null }>("SELECT max(size) AS size FROM ledger_cosigned");
  return rows[0]?.size ?? undefined;
}

/** Sizes from `size` on that a quorum has cosigned, ascending. */
export async function cosignedFrom(q: Queryable, size: number, limit: number): Promise<number[]> {
  const { rows } = await q.query<{ size: number }>(
    "SELECT size FROM ledger_cosigned WHERE size >= $1 ORDER BY size LIMIT $2",
    [size, limit],
  );
  return rows.map((row) => row.size);
}

/** Where an act stands in this site's ledger; undefined while it isn't sequenced. */
export async function indexOfLeaf(q: Queryable, leafHash: Uint8Array): Promise<number | undefined> {
  const { rows } = await q.query<{ index: number }>(
    `SELECT l.leaf_index AS index FROM ledger_act a JOIN ledger_leaf l USING (retry_key) WHERE a.leaf_hash = $1
     ORDER BY l.leaf_index LIMIT 1`,
    [leafHash],
  );
  return rows[0]?.index;
}
