import type { Queryable } from "./db.ts";
import { packed } from "./packed.ts";

/** Bytes that acts name by digest and don't hold. */

/** Keeps bytes under their SHA-256. The caller has computed it. */
export async function storeBlob(db: Queryable, sha256: Uint8Array, bytes: Uint8Array): Promise<void> {
  await db.query("INSERT INTO ledger_blob (sha256, bytes) VALUES ($1, $2) ON CONFLICT (sha256) DO NOTHING", [
    sha256,
    bytes,
  ]);
}

/** As {@link storeBlob}, for several. */
export async function storeBlobs(
  db: Queryable,
  blobs: readonly { readonly sha256: Uint8Array; readonly bytes: Uint8Array }[],
): Promise<void> {
  const { bytes, ends, sizes } = packed(blobs.map((blob) => blob.bytes));
  await db.query(
    `INSERT INTO ledger_blob (sha256, bytes)
     SELECT substring($1::bytea FROM 32 * o::int - 31 FOR 32), substring($2::bytea FROM e - s + 1 FOR s)
     FROM unnest($3::int[], $4::int[]) WITH ORDINALITY AS n(e, s, o) ORDER BY 1 ON CONFLICT (sha256) DO NOTHING`,
    [Buffer.concat(blobs.map((blob) => blob.sha256)), bytes, ends, sizes],
  );
}

export async function readBlob(db: Queryable, sha256: Uint8Array): Promise<Uint8Array | undefined> {
  const { rows } = await db.query<{ bytes: Uint8Array }>("SELECT bytes FROM ledger_blob WHERE sha256 = $1", [sha256]);
  return rows[0]?.bytes;
}

/** Those of these blobs that there are, in any order. */
export async function readBlobs(db: Queryable, digests: readonly Uint8Array[]): Promise<Uint8Array[]> {
  const { rows } = await db.query<{ bytes: Uint8Array }>("SELECT bytes FROM ledger_blob WHERE sha256 = ANY($1)", [
    digests,
  ]);
  return rows.map((row) => row.bytes);
}

export async function listBlobs(db: Queryable): Promise<Uint8Array[]> {
  const { rows } = await db.query<{ sha256: Uint8Array }>("SELECT sha256 FROM ledger_blob ORDER BY sha256");
  return rows.map((row) => row.sha256);
}

/**
 * Blobs that were committed since an earlier look, and what to say at the next one. Some may come twice: a transaction
 * that was under way then is looked at again, whenever it began.
 */
export async function blobsSince(
  db: Queryable,
  since: string | undefined,
): Promise<{ added: Uint8Array[]; next: string }> {
  // One snapshot for both: what it doesn't see yet is of its oldest open transaction or a later one.
  const { rows } = await db.query<{ xmin: string; sha256: Uint8Array | null }>({
    name: `ledger-blobs-${since === undefined ? "all" : "since"}`,
    text: `SELECT s.xmin::text AS xmin, b.sha256 FROM (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xmin) s
      LEFT JOIN ledger_blob b ON ${since === undefined ? "true" : "b.added >= $1::text::xid8"}`,
    values: since === undefined ? [] : [since],
  });
  return { added: rows.flatMap(({ sha256 }) => sha256 ?? []), next: rows[0]!.xmin };
}
