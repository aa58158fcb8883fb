import { onceCommitted, withKeptPlans, type Queryable, type Tx } from "./db.ts";
import { HASHES, hexHashes, packed, packedHashes, packedHex, texts } from "./packed.ts";

/** Acts before they have a place in the tree. The first stored entry wins, and is queued with it. */

/** Sent when acts were queued. */
export const PENDING_CHANNEL = "ledger_pending";

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
  const { rows } = await withKeptPlans(tx, () =>
    tx.query<{ keys: string | null }>({
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
    }),
  );
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
