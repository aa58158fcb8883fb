import { CountersignError } from "../lib/domain/errors.ts";
import { onceCommitted, type Queryable, type Tx } from "./db.ts";
import { hexHashes, packed, packedHashes, texts } from "./packed.ts";

/**
 * The ledger's tables. Ordering rules live here, in the statements: the first stored entry wins, the head moves by
 * compare-and-set, pending acts leave in the order in which they came. What is hashed and signed is decided above.
 */

/** Sent when acts were queued. */
export const PENDING_CHANNEL = "ledger_pending";
/** Sent with the new size when a checkpoint was stored, or with `refused` when an act was refused. */
export const CHECKPOINT_CHANNEL = "ledger_checkpoint";

export interface LedgerHead {
  readonly origin: string;
  readonly size: number;
  readonly root: Uint8Array;
}
export interface StoredAct {
  readonly retryKey: Uint8Array;
  readonly type: string;
  readonly statement: Uint8Array | null;
  readonly entry: Uint8Array | null;
  readonly leafHash: Uint8Array | null;
  readonly refused: string | null;
}
export interface NewLine {
  readonly retryKey: Uint8Array;
  readonly type: string;
  readonly entry: Uint8Array;
  readonly leafHash: Uint8Array;
  readonly prev: readonly Uint8Array[];
}
export interface PendingAct {
  /** of the row that it was queued in, with others maybe */
  readonly id: number;
  readonly retryKey: Uint8Array;
  readonly leafHash: Uint8Array;
  /** the same as hex */
  readonly leafHex: string;
  /** the entry's bytes hash to the leaf hash, says Postgres */
  readonly intact: boolean;
  /** leaf hashes of this ledger, hex */
  readonly prev: readonly string[];
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

/** In one row of the queue at most: the sequencer takes whole rows. */
const QUEUED_TOGETHER = 512;

const key = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const byKey = <T extends { retryKey: Uint8Array }>(a: T, b: T): number => Buffer.compare(a.retryKey, b.retryKey);

/**
 * Stores line records and queues them in the given order, durable with the caller's transaction. Gives the retry keys
 * (hex) that were there already, whose acts are untouched; the others are new.
 * @param announce wakes the sequencer when acts were queued, after the commit; without it the commit does
 */
export async function insertLines(tx: Tx, lines: readonly NewLine[], announce?: () => void): Promise<Set<string>> {
  const [alone] = lines;
  if (alone !== undefined && lines.length === 1) return insertAlone(tx, alone, announce);
  // One lock order for all writers: two batches that share keys can't deadlock.
  const sorted = lines.toSorted(byKey);
  const entries = packed(sorted.map((l) => l.entry));
  const prev = packed(sorted.map((l) => packedHashes(l.prev)));
  const { rows } = await tx.query<{ keys: string | null }>({
    name: "ledger-insert-lines",
    text: `WITH stored AS (
        INSERT INTO ledger_act (retry_key, type, entry, leaf_hash, prev)
        SELECT substring($1::bytea FROM 32 * o::int - 31 FOR 32), t, substring($3::bytea FROM e - n + 1 FOR n),
          substring($6::bytea FROM 32 * o::int - 31 FOR 32),
          CASE m WHEN 0 THEN '{}'::bytea[] WHEN 32 THEN ARRAY[substring($7::bytea FROM p - 31 FOR 32)]
            ELSE (SELECT array_agg(substring($7::bytea FROM k FOR 32) ORDER BY k) FROM generate_series(p - m + 1, p, 32) k) END
        FROM unnest($2::text[], $4::int[], $5::int[], $8::int[], $9::int[]) WITH ORDINALITY AS l(t, e, n, p, m, o)
        ON CONFLICT (retry_key) DO NOTHING RETURNING retry_key
      ) SELECT encode(string_agg(retry_key, ''::bytea), 'hex') AS keys FROM stored`,
    values: [
      packedHashes(sorted.map((l) => l.retryKey)),
      texts(sorted.map((l) => l.type)),
      entries.bytes,
      entries.ends,
      entries.sizes,
      packedHashes(sorted.map((l) => l.leafHash)),
      prev.bytes,
      prev.ends,
      prev.sizes,
    ],
  });
  const inserted = new Set(hexHashes(rows[0]!.keys));
  const known = new Set<string>();
  // A key counts once, so as many as were given means that none was there.
  if (inserted.size < lines.length)
    for (const l of lines) if (!inserted.has(key(l.retryKey))) known.add(key(l.retryKey));
  await queueActs(
    tx,
    (known.size === 0 ? lines : lines.filter((l) => !known.has(key(l.retryKey)))).map((l) => l.retryKey),
    announce,
  );
  return known;
}

/** One line by a statement that is planned in a fraction of the time: plans aren't kept, and are most of what one costs. */
async function insertAlone(tx: Tx, line: NewLine, announce?: () => void): Promise<Set<string>> {
  const { rowCount } = await tx.query({
    name: "ledger-insert-line",
    text: `WITH stored AS (
        INSERT INTO ledger_act (retry_key, type, entry, leaf_hash, prev) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (retry_key) DO NOTHING RETURNING retry_key
      ) INSERT INTO ledger_pending (retry_keys) SELECT retry_key FROM stored`,
    values: [line.retryKey, line.type, line.entry, line.leafHash, line.prev],
  });
  if (rowCount !== 1) return new Set([key(line.retryKey)]);
  await tellQueued(tx, announce);
  return new Set();
}

/** Fixes what a signed act says, before anything is signed. Does nothing where the retry key is taken. */
export async function insertStatement(
  tx: Queryable,
  act: { retryKey: Uint8Array; type: string; statement: Uint8Array; prev: readonly Uint8Array[] },
): Promise<void> {
  await tx.query(
    "INSERT INTO ledger_act (retry_key, type, statement, prev) VALUES ($1, $2, $3, $4) ON CONFLICT (retry_key) DO NOTHING",
    [act.retryKey, act.type, act.statement, act.prev],
  );
}

/** Stores a signed act's entry and queues it, as `insertLines`. False when one is stored already: the first wins. */
export async function storeEntry(
  tx: Tx,
  act: { retryKey: Uint8Array; entry: Uint8Array; leafHash: Uint8Array },
  announce?: () => void,
): Promise<boolean> {
  const { rowCount } = await tx.query(
    "UPDATE ledger_act SET entry = $2, leaf_hash = $3 WHERE retry_key = $1 AND entry IS NULL",
    [act.retryKey, act.entry, act.leafHash],
  );
  if (rowCount !== 1) return false;
  await queueActs(tx, [act.retryKey], announce);
  return true;
}

async function queueActs(tx: Tx, retryKeys: readonly Uint8Array[], announce?: () => void): Promise<void> {
  if (retryKeys.length === 0) return;
  await tx.query({
    name: "ledger-queue",
    text: `INSERT INTO ledger_pending (retry_keys)
      SELECT substring($1::bytea FROM 32 * $2 * n + 1 FOR 32 * $2)
      FROM generate_series(0, (octet_length($1::bytea) / 32 - 1) / $2) n ORDER BY n`,
    values: [packedHashes(retryKeys), QUEUED_TOGETHER],
  });
  await tellQueued(tx, announce);
}

/**
 * A transaction that notifies holds a lock of the whole cluster while it commits, so those that do reach the disk one by
 * one. Who can, tells the sequencer afterwards.
 */
async function tellQueued(tx: Tx, announce: (() => void) | undefined): Promise<void> {
  if (announce === undefined || !onceCommitted(tx, announce)) await announcePending(tx);
}

/** Tells every sequencer that acts were queued: now, or with the commit of a transaction that this is in. */
export async function announcePending(db: Queryable): Promise<void> {
  await db.query(`NOTIFY ${PENDING_CHANNEL}`);
}

export async function readActs(db: Queryable, retryKeys: readonly Uint8Array[]): Promise<StoredAct[]> {
  const { rows } = await db.query<StoredAct>(
    `SELECT retry_key AS "retryKey", type, statement, entry, leaf_hash AS "leafHash", refused
     FROM ledger_act WHERE retry_key = ANY($1)`,
    [retryKeys],
  );
  return rows;
}

/** Of these acts, those that nobody can wait for: `type` is null for one that was never recorded. */
export async function readHopeless(
  db: Queryable,
  retryKeys: readonly Uint8Array[],
): Promise<{ retryKey: string; type: string | null; refused: string | null }[]> {
  if (retryKeys.length === 0) return [];
  const { rows } = await db.query<{ retryKey: string; type: string | null; refused: string | null }>({
    name: "ledger-hopeless",
    text: `SELECT encode(h, 'hex') AS "retryKey", a.type, a.refused FROM ${HASHES}
      LEFT JOIN LATERAL (SELECT type, refused FROM ledger_act WHERE retry_key = h LIMIT 1) a ON true
      WHERE a.type IS NULL OR a.refused IS NOT NULL`,
    values: [packedHashes(retryKeys), retryKeys.length],
  });
  return rows;
}

/**
 * Hashes `h`, packed as $1, of which there are $2. What joins them does it by one look into an index each (a lateral
 * subquery with a limit): the planner takes a digest to be in many rows, until the table was analysed, and would read all
 * of it for some hundred.
 */
const HASHES = "(SELECT substring($1::bytea FROM 32 * o - 31 FOR 32) AS h FROM generate_series(1, $2::int) o) g";

const packedHex = (hashes: readonly string[]): Buffer => packedHashes(hashes.map((hex) => Buffer.from(hex, "hex")));

/** Of these leaf hashes (hex), those that no recorded act of this ledger has. */
export async function unknownLeafHashes(db: Queryable, leafHashes: readonly string[]): Promise<string[]> {
  const asked = [...new Set(leafHashes)];
  const [alone] = asked;
  if (alone === undefined) return [];
  if (asked.length === 1) {
    const { rowCount } = await db.query({
      name: "ledger-unknown-one",
      text: "SELECT FROM ledger_act WHERE leaf_hash = $1 AND refused IS NULL LIMIT 1",
      values: [Buffer.from(alone, "hex")],
    });
    return rowCount === 1 ? [] : [alone];
  }
  const { rows } = await db.query<{ missing: string | null }>({
    name: "ledger-unknown",
    text: `SELECT encode(string_agg(h, ''::bytea), 'hex') AS missing FROM ${HASHES}
      LEFT JOIN LATERAL (SELECT true AS known FROM ledger_act WHERE leaf_hash = h AND refused IS NULL LIMIT 1) a ON true
      WHERE a.known IS NULL`,
    values: [packedHex(asked), asked.length],
  });
  return hexHashes(rows[0]!.missing);
}

/**
 * The oldest pending acts. Never asked for as "id greater than the last": identity order isn't commit order, so an act
 * may appear below ids that were already taken. `limit` is kept to within the acts of one row.
 */
export async function takePending(tx: Tx, limit: number): Promise<PendingAct[]> {
  const { rows } = await tx.query<{
    id: number;
    retryKeys: string;
    leafHashes: string;
    prev: string;
    prevCounts: string;
    intact: string;
  }>({
    name: "ledger-take",
    text: `WITH oldest AS (SELECT id, retry_keys FROM ledger_pending ORDER BY id LIMIT $1), taken AS (
        SELECT id, retry_keys FROM (
          SELECT id, retry_keys, sum(octet_length(retry_keys)) OVER (ORDER BY id) - octet_length(retry_keys) AS before
          FROM oldest) t
        WHERE before < 32 * $1)
      SELECT t.id, encode(string_agg(a.retry_key, ''::bytea ORDER BY o), 'hex') AS "retryKeys",
        encode(string_agg(a.leaf_hash, ''::bytea ORDER BY o), 'hex') AS "leafHashes",
        encode(string_agg(a.prev, ''::bytea ORDER BY o), 'hex') AS prev,
        string_agg(a.prevs::text, ' ' ORDER BY o) AS "prevCounts",
        string_agg(CASE WHEN a.intact THEN 't' ELSE 'f' END, '' ORDER BY o) AS intact
      FROM taken t CROSS JOIN generate_series(1, octet_length(t.retry_keys), 32) o
        -- One look into the index each: how many keys there are, the planner can't know, and would read the whole table.
        CROSS JOIN LATERAL (
          SELECT retry_key, leaf_hash, cardinality(prev) AS prevs,
            CASE cardinality(prev) WHEN 0 THEN ''::bytea WHEN 1 THEN prev[1]
              ELSE (SELECT string_agg(p, ''::bytea ORDER BY n) FROM unnest(prev) WITH ORDINALITY AS u(p, n)) END AS prev,
            sha256('\\x00'::bytea || entry) = leaf_hash AS intact
          FROM ledger_act WHERE retry_key = substring(t.retry_keys FROM o FOR 32) LIMIT 1) a
      GROUP BY t.id ORDER BY t.id`,
    values: [limit],
  });
  return rows.flatMap(({ id, ...row }) => {
    const retryKeys = Buffer.from(row.retryKeys, "hex");
    const leafHashes = Buffer.from(row.leafHashes, "hex");
    const counts = row.prevCounts.split(" ").map(Number);
    const prev = hexHashes(row.prev);
    // An act whose previous ones weren't seen would be let in without them.
    if (
      prev.length !== counts.reduce((sum, count) => sum + count, 0) ||
      retryKeys.length !== 32 * counts.length ||
      leafHashes.length !== 32 * counts.length ||
      row.intact.length !== counts.length
    ) {
      throw new CountersignError("internal", `the acts queued as ${id} don't read as they were written`);
    }
    let seen = 0;
    return counts.map((count, i) => ({
      id,
      retryKey: retryKeys.subarray(32 * i, 32 * i + 32),
      leafHash: leafHashes.subarray(32 * i, 32 * i + 32),
      leafHex: row.leafHashes.slice(64 * i, 64 * i + 64),
      intact: row.intact[i] === "t",
      prev: prev.slice(seen, (seen += count)),
    }));
  });
}

/** The entries' bytes by retry key (hex). */
export async function readEntriesOf(tx: Queryable, retryKeys: readonly Uint8Array[]): Promise<Map<string, Uint8Array>> {
  if (retryKeys.length === 0) return new Map();
  const { rows } = await tx.query<{ key: string; entry: Uint8Array }>(
    "SELECT encode(retry_key, 'hex') AS key, entry FROM ledger_act WHERE retry_key = ANY($1) AND entry IS NOT NULL",
    [retryKeys],
  );
  return new Map(rows.map((row) => [row.key, row.entry]));
}

/** Of these leaf hashes (hex), those that are not in the tree. */
export async function unsequencedLeafHashes(tx: Tx, leafHashes: readonly string[]): Promise<string[]> {
  if (leafHashes.length === 0) return [];
  const { rows } = await tx.query<{ missing: string | null }>({
    name: "ledger-unsequenced",
    text: `SELECT encode(string_agg(h, ''::bytea), 'hex') AS missing FROM ${HASHES}
      LEFT JOIN LATERAL (
        SELECT true AS known FROM ledger_act a
        CROSS JOIN LATERAL (SELECT FROM ledger_leaf l WHERE l.retry_key = a.retry_key LIMIT 1) l
        WHERE a.leaf_hash = h LIMIT 1) a ON true
      WHERE a.known IS NULL`,
    values: [packedHex(leafHashes), leafHashes.length],
  });
  return hexHashes(rows[0]!.missing);
}

export async function removePending(tx: Tx, ids: readonly number[]): Promise<void> {
  await tx.query({
    name: "ledger-remove",
    text: "DELETE FROM ledger_pending WHERE id = ANY($1::bigint[])",
    values: [ids],
  });
}

/** Takes an act out of the queue for good, with the reason that its waiters are given. */
export async function refuseAct(tx: Tx, retryKey: Uint8Array, reason: string): Promise<void> {
  await tx.query("UPDATE ledger_act SET refused = $2 WHERE retry_key = $1", [retryKey, reason]);
  await tx.query("SELECT pg_notify($1, 'refused')", [CHECKPOINT_CHANNEL]);
}

export async function insertLeaves(
  tx: Tx,
  first: number,
  leaves: readonly { retryKey: Uint8Array; leafHash: Uint8Array }[],
): Promise<void> {
  await tx.query({
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
  });
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

export interface StoredCheckpoint {
  readonly size: number;
  readonly root: Uint8Array;
  readonly note: Uint8Array;
  readonly signedAt: Date;
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

/** Where these acts stand in the tree that the newest checkpoint covers; acts that it doesn't cover are left out. */
export async function readIncluded(
  db: Queryable,
  retryKeys: readonly Uint8Array[],
): Promise<{ retryKey: string; leafHash: string; index: number; checkpointSize: number }[]> {
  const { rows } = await db.query<{
    retryKey: string;
    leafHash: string;
    index: number;
    checkpointSize: number;
  }>({
    name: "ledger-included",
    text: `SELECT encode(l.retry_key, 'hex') AS "retryKey", encode(l.leaf_hash, 'hex') AS "leafHash", l.leaf_index AS index, c.size AS "checkpointSize"
      FROM (SELECT max(size) AS size FROM ledger_checkpoint) c, ledger_leaf l
      WHERE l.retry_key = ANY($1) AND l.leaf_index < c.size`,
    values: [retryKeys],
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

/** Keeps bytes under their SHA-256. The caller has computed it. */
export async function storeBlob(db: Queryable, sha256: Uint8Array, bytes: Uint8Array): Promise<void> {
  await db.query("INSERT INTO ledger_blob (sha256, bytes) VALUES ($1, $2) ON CONFLICT (sha256) DO NOTHING", [
    sha256,
    bytes,
  ]);
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

const SEQUENCER_LOCK = 0x6c6f67; // "log"

/** Takes the sequencer's lock for as long as this connection lives. False when another sequencer has it. */
export async function trySequencerLock(client: Tx): Promise<boolean> {
  const { rows } = await client.query<{ locked: boolean }>("SELECT pg_try_advisory_lock($1, 0) AS locked", [
    SEQUENCER_LOCK,
  ]);
  return rows[0]?.locked === true;
}

/** The server ends this session, and with it the lock, when its client says nothing or takes no answer for so long. */
export async function endWhenSilent(client: Tx, ms: number): Promise<void> {
  await client.query(
    `SELECT set_config('idle_session_timeout', $1, false), set_config('idle_in_transaction_session_timeout', $1, false),
            set_config('tcp_user_timeout', $1, false)`,
    [String(ms)],
  );
}
