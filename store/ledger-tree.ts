import { CountersignError } from "../lib/domain/errors.ts";
import { withKeptPlans, type Queryable, type Tx } from "./db.ts";
import { HASHES, hexHashes, packedHashes, packedHex } from "./packed.ts";

/** Head, leaves, tiles and checkpoints. The head moves by compare-and-set, and the first checkpoint of a size wins. */

/** Sent with the new size when a checkpoint was stored, or with `refused` when an act was refused. */
export const CHECKPOINT_CHANNEL = "ledger_checkpoint";

export interface LedgerHead {
  readonly origin: string;
  readonly size: number;
  readonly root: Uint8Array;
}

/** Creates the head of an empty log where there is none, and gives the head. */
export async function createHead(db: Queryable, origin: string, emptyRoot: Uint8Array): Promise<LedgerHead> {
  await db.query("INSERT INTO ledger_head (origin, size, root) VALUES ($1, 0, $2) ON CONFLICT (singleton) DO NOTHING", [
    origin,
    emptyRoot,
  ]);
  const head = await readHead(db);
  if (head?.origin !== origin) {
    throw new CountersignError(
      "state-conflict",
      `this database holds the ledger ${head?.origin}, not ${origin}: each party has a database of its own`,
    );
  }
  return head;
}

export async function readHead(db: Queryable): Promise<LedgerHead | undefined> {
  return (await db.query<LedgerHead>("SELECT origin, size, root FROM ledger_head")).rows[0];
}

/** Compare-and-set. False when the head isn't where the caller believes: another sequencer has moved it. */
export async function moveHead(
  tx: Tx,
  from: Pick<LedgerHead, "size" | "root">,
  to: Pick<LedgerHead, "size" | "root">,
): Promise<boolean> {
  const { rowCount } = await tx.query("UPDATE ledger_head SET size = $1, root = $2 WHERE size = $3 AND root = $4", [
    to.size,
    to.root,
    from.size,
    from.root,
  ]);
  return rowCount === 1;
}

export async function insertLeaves(
  tx: Tx,
  first: number,
  leaves: readonly { retryKey: Uint8Array; leafHash: Uint8Array }[],
): Promise<void> {
  await withKeptPlans(tx, () =>
    tx.query({
      name: "ledger-leaves",
      text: `INSERT INTO ledger_leaf (leaf_index, retry_key, leaf_hash)
      SELECT $1::bigint + o - 1, substring($2::bytea FROM 32 * o - 31 FOR 32), substring($3::bytea FROM 32 * o - 31 FOR 32)
      FROM generate_series(1, $4::int) o`,
      values: [
        first,
        packedHashes(leaves.map((l) => l.retryKey)),
        packedHashes(leaves.map((l) => l.leafHash)),
        leaves.length,
      ],
    }),
  );
}

/** Each (level, index) at most once. */
export async function upsertTiles(
  tx: Tx,
  tiles: readonly { level: number; index: number; bytes: Uint8Array }[],
): Promise<void> {
  await tx.query({
    name: "ledger-tiles",
    text: `INSERT INTO ledger_tile (level, tile_index, hashes)
      SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
      ON CONFLICT (level, tile_index) DO UPDATE SET hashes = EXCLUDED.hashes`,
    values: [tiles.map((t) => t.level), tiles.map((t) => t.index), tiles.map((t) => t.bytes)],
  });
}

export async function readTile(db: Queryable, level: number, index: number): Promise<Uint8Array | undefined> {
  const { rows } = await db.query<{ hashes: Uint8Array }>({
    name: "ledger-tile",
    text: "SELECT hashes FROM ledger_tile WHERE level = $1 AND tile_index = $2",
    values: [level, index],
  });
  return rows[0]?.hashes;
}

/** Entries [from, to), in order; fewer when the log is shorter. */
export async function readEntries(db: Queryable, from: number, to: number): Promise<Uint8Array[]> {
  const { rows } = await db.query<{ entry: Uint8Array }>({
    name: "ledger-entries",
    text: `SELECT a.entry FROM ledger_leaf l JOIN ledger_act a USING (retry_key)
      WHERE l.leaf_index >= $1 AND l.leaf_index < $2 ORDER BY l.leaf_index`,
    values: [from, to],
  });
  return rows.map((row) => row.entry);
}

export interface StoredCheckpoint {
  readonly size: number;
  readonly root: Uint8Array;
  readonly note: Uint8Array;
  readonly signedAt: Date;
}

/** Stores a signed checkpoint and wakes who waits for it, in one statement; the first for a size wins. */
export async function storeCheckpoint(
  db: Queryable,
  checkpoint: { size: number; root: Uint8Array; note: Uint8Array },
): Promise<void> {
  await db.query({
    name: "ledger-checkpoint",
    text: `WITH stored AS (
        INSERT INTO ledger_checkpoint (size, root, note) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING
      ) SELECT pg_notify('${CHECKPOINT_CHANNEL}', $1::text)`,
    values: [checkpoint.size, checkpoint.root, checkpoint.note],
  });
}

/** The newest checkpoint, or the newest of at most `size`. */
export async function readCheckpoint(db: Queryable, size?: number): Promise<StoredCheckpoint | undefined> {
  const { rows } = await db.query<StoredCheckpoint>(
    `SELECT size, root, note, signed_at AS "signedAt" FROM ledger_checkpoint
     WHERE $1::bigint IS NULL OR size <= $1 ORDER BY size DESC LIMIT 1`,
    [size ?? null],
  );
  return rows[0];
}

/** Where these acts (retry keys, hex) stand in the tree that the newest checkpoint covers; others are left out. */
export async function readIncluded(
  db: Queryable,
  retryKeys: readonly string[],
): Promise<{ retryKey: string; leafHash: string; index: number; checkpointSize: number }[]> {
  const { rows } = await db.query<{
    retryKey: string;
    leafHash: string;
    index: number;
    checkpointSize: number;
  }>({
    name: "ledger-included",
    text: `SELECT encode(l.retry_key, 'hex') AS "retryKey", encode(l.leaf_hash, 'hex') AS "leafHash", l.leaf_index AS index, c.size AS "checkpointSize"
      FROM (SELECT max(size) AS size FROM ledger_checkpoint) c CROSS JOIN ${HASHES}
      CROSS JOIN LATERAL (SELECT * FROM ledger_leaf WHERE retry_key = h LIMIT 1) l
      WHERE l.leaf_index < c.size`,
    values: [packedHex(retryKeys), retryKeys.length],
  });
  return rows;
}

/**
 * The leaves that checkpoints added since the tree had `from`, the first of them `from`'s, and the newest checkpoint's
 * size. `leaves` is undefined when there are more than `limit`.
 */
export async function readNewlyIncluded(
  db: Queryable,
  from: number,
  limit: number,
): Promise<{ size: number; leaves: { retryKey: string; leafHash: string }[] | undefined }> {
  const size = (await db.query<{ size: number | null }>("SELECT max(size) AS size FROM ledger_checkpoint")).rows[0]
    ?.size;
  if (size == null || size <= from) return { size: from, leaves: [] };
  if (size - from > limit) return { size, leaves: undefined };
  const { rows } = await db.query<{ retryKeys: string | null; leafHashes: string | null }>({
    name: "ledger-growth",
    text: `SELECT encode(string_agg(retry_key, ''::bytea ORDER BY leaf_index), 'hex') AS "retryKeys",
        encode(string_agg(leaf_hash, ''::bytea ORDER BY leaf_index), 'hex') AS "leafHashes"
      FROM ledger_leaf WHERE leaf_index >= $1 AND leaf_index < $2`,
    values: [from, size],
  });
  const leafHashes = hexHashes(rows[0]!.leafHashes);
  return { size, leaves: hexHashes(rows[0]!.retryKeys).map((retryKey, i) => ({ retryKey, leafHash: leafHashes[i]! })) };
}
