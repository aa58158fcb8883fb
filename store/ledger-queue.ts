import { CountersignError } from "../lib/domain/errors.ts";
import type { Queryable, Tx } from "./db.ts";
import { CHECKPOINT_CHANNEL } from "./ledger-tree.ts";
import { HASHES, hexHashes, packedHex } from "./packed.ts";

/** The sequencer's side of the queue: pending acts leave in the order in which they came. One sequencer at a time. */

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
