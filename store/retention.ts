import type { Queryable } from "./db.ts";

/**
 * What goes after a while. Each statement takes away `limit` rows at most and says how many. Rows that name something for
 * good (retry keys, digests, numbers) stay, without their bytes: the same thing again gives the first answer.
 */

/**
 * Items of batches that are done, and manifests where the same bytes lie beside the ledger. A manifest that is posted
 * again is known by its digest, and answered from its results.
 */
export async function emptyBatches(q: Queryable, days: number, limit: number): Promise<number> {
  const { rowCount } = await q.query(
    `UPDATE batch SET items = '', manifest = CASE
         WHEN EXISTS (SELECT FROM ledger_blob WHERE sha256 = decode(manifest_sha256, 'hex')) THEN '' ELSE manifest END
     WHERE id IN (SELECT id FROM batch WHERE state = 'done' AND items <> '' AND received < now() - make_interval(days => $1)
       ORDER BY received LIMIT $2 FOR UPDATE SKIP LOCKED)`,
    [days, limit],
  );
  return rowCount ?? 0;
}

/** Of messages that were delivered; their numbers, digests and retry keys stay. */
export async function emptyOutbox(q: Queryable, days: number, limit: number): Promise<number> {
  const { rowCount } = await q.query(
    `UPDATE outbox SET body = '', envelope = ''
     WHERE id IN (SELECT id FROM outbox WHERE state = 'delivered' AND body <> '' AND delivered < now() - make_interval(days => $1)
       ORDER BY delivered LIMIT $2 FOR UPDATE SKIP LOCKED)`,
    [days, limit],
  );
  return rowCount ?? 0;
}

/**
 * Of messages that had their effect, from senders with whom nothing is under way: what waits for an operator (an offer, a
 * grant) is read from the message when it goes on.
 */
export async function emptyInbox(q: Queryable, days: number, limit: number): Promise<number> {
  const { rowCount } = await q.query(
    `UPDATE inbox SET body = '', envelope = ''
     WHERE id IN (SELECT id FROM inbox i WHERE applied < now() - make_interval(days => $1) AND body <> ''
         AND NOT EXISTS (SELECT FROM handoff h WHERE h.peer = i.sender AND h.state NOT IN ('closed', 'received', 'refused'))
         AND NOT EXISTS (SELECT FROM enrolment e WHERE e.parent = i.sender AND e.state NOT IN ('accepted', 'refused'))
         AND NOT EXISTS (SELECT FROM delegation d WHERE d.child = i.sender AND d.state NOT IN ('accepted', 'refused'))
       ORDER BY applied LIMIT $2 FOR UPDATE SKIP LOCKED)`,
    [days, limit],
  );
  return rowCount ?? 0;
}

/**
 * Of the next `limit` old checkpoints behind `after` those that no quorum cosigned; none that isn't older than the newest
 * cosigned one, or where there is none than the newest of all.
 * @returns how many went, how many were looked at, and the last of these
 */
export async function dropUncosigned(
  q: Queryable,
  days: number,
  after: number,
  limit: number,
): Promise<{ gone: number; seen: number; last: number | null }> {
  const { rows } = await q.query<{ gone: number; seen: number; last: number | null }>(
    `WITH page AS (
       SELECT size FROM ledger_checkpoint
       WHERE size > $3 AND signed_at < now() - make_interval(days => $1)
         AND size < coalesce((SELECT max(size) FROM ledger_cosigned), (SELECT max(size) FROM ledger_checkpoint))
       ORDER BY size LIMIT $2
     ), due AS (
       SELECT size FROM page p WHERE NOT EXISTS (SELECT FROM ledger_cosigned d WHERE d.size = p.size)
     ), lines AS (
       DELETE FROM ledger_cosignature WHERE size IN (SELECT size FROM due)
     ), gone AS (
       DELETE FROM ledger_checkpoint WHERE size IN (SELECT size FROM due) RETURNING 1
     ) SELECT (SELECT count(*) FROM gone) AS gone, count(*) AS seen, max(size) AS last FROM page`,
    [days, limit, after],
  );
  return rows[0]!;
}

export interface CheckpointPlace {
  /** empty: this site's own log */
  readonly origin: string;
  readonly size: number;
  readonly at: Date;
}

/** Checkpoints that a quorum cosigned, old enough and behind `after`, ascending; never the newest. */
export async function cosignedPage(
  q: Queryable,
  days: number,
  after: { size: number },
  limit: number,
): Promise<CheckpointPlace[]> {
  const { rows } = await q.query<CheckpointPlace>(
    `SELECT '' AS origin, size, since AS at FROM ledger_cosigned
     WHERE size > $2 AND since < now() - make_interval(days => $1) AND size < (SELECT max(size) FROM ledger_cosigned)
     ORDER BY size LIMIT $3`,
    [days, after.size, limit],
  );
  return rows;
}

export async function dropCosigned(q: Queryable, sizes: readonly number[]): Promise<number> {
  // The newest under which a witness is known stays: from there it is asked on.
  const { rows } = await q.query<{ gone: number }>(
    `WITH due AS (
       SELECT s AS size FROM unnest($1::bigint[]) s WHERE NOT EXISTS (
         SELECT FROM ledger_cosignature c WHERE c.size = s AND NOT EXISTS (
           SELECT FROM ledger_cosignature n WHERE n.name = c.name AND n.key_id = c.key_id AND n.size > s))
     ), marks AS (
       DELETE FROM ledger_cosigned WHERE size IN (SELECT size FROM due)
     ), lines AS (
       DELETE FROM ledger_cosignature WHERE size IN (SELECT size FROM due)
     ), gone AS (
       DELETE FROM ledger_checkpoint WHERE size IN (SELECT size FROM due) RETURNING 1
     ) SELECT count(*) AS gone FROM gone`,
    [sizes],
  );
  return rows[0]!.gone;
}

/** Other parties' checkpoints that this site cosigned, by log and size; never a log's newest. */
export async function witnessedPage(
  q: Queryable,
  days: number,
  after: { origin: string; size: number },
  limit: number,
): Promise<CheckpointPlace[]> {
  const { rows } = await q.query<CheckpointPlace>(
    `SELECT w.origin, w.size, w.cosigned AS at FROM witness_checkpoint w
     WHERE (w.origin, w.size) > ($2, $3) AND w.cosigned < now() - make_interval(days => $1)
       AND EXISTS (SELECT FROM witness_checkpoint n WHERE n.origin = w.origin AND n.size > w.size)
     ORDER BY w.origin, w.size LIMIT $4`,
    [days, after.origin, after.size, limit],
  );
  return rows;
}

export async function dropWitnessed(
  q: Queryable,
  rows: readonly Pick<CheckpointPlace, "origin" | "size">[],
): Promise<number> {
  const { rowCount } = await q.query(
    `DELETE FROM witness_checkpoint WHERE (origin, size) IN (SELECT * FROM unnest($1::text[], $2::bigint[]))`,
    [rows.map(({ origin }) => origin), rows.map(({ size }) => size)],
  );
  return rowCount ?? 0;
}
