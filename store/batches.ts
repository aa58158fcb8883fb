import { splitPrefixed } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import type { ErrorCode } from "../lib/domain/error-codes.ts";
import { withKeptPlans, type Queryable, type Tx } from "./db.ts";
import { ints, texts } from "./packed.ts";

/** What a station or technician handed in, and what became of each item. A batch's row never changes but for `state`. */

export type BatchKind = "built" | "certify" | "install";

export interface NewBatch {
  /** the manifest's id: names the batch for good */
  readonly id: string;
  readonly lot: string;
  readonly kind: BatchKind;
  /** the DSSE bytes as they came */
  readonly manifest: Uint8Array;
  readonly manifestSha256: string;
  /** SHA-256 of the SPKI of who signed it; the certificate is in the manifest */
  readonly keyId: string;
  readonly items: readonly Uint8Array[];
}

export interface Batch extends NewBatch {
  readonly state: "pending" | "done";
}

export interface ItemResult {
  readonly batch: string;
  readonly index: number;
  readonly device?: string | undefined;
  readonly error?: { code: ErrorCode; message: string } | undefined;
}

/** A lot's batches that may wait at once, unless a site is told otherwise: some 100 MB of CSRs. */
export const WAITING_BATCHES = 1_000;
/** When to come again with a batch that found the queue full: several have been done by then, unless the line stands. */
const RETRY_AFTER_SECONDS = 5;

/**
 * Stores a batch. False when the same manifest is stored already.
 * @param waiting batches of a lot that may wait; those that come at the same moment may be a few more
 * @throws CountersignError `already-exists` when the id belongs to another manifest; `queue-full`, with
 *   `details.retryAfterSeconds`
 */
export async function insertBatch(tx: Tx, batch: NewBatch, waiting = WAITING_BATCHES): Promise<boolean> {
  const { rowCount } = await tx.query({
    name: "batch-insert",
    text: `INSERT INTO batch (id, lot, kind, manifest, manifest_sha256, key_id, count, items)
      SELECT $1, $2, $3, $4::bytea, $5, $6, $7::int, $8::bytea WHERE (
        SELECT count(*) FROM (SELECT FROM batch WHERE state = 'pending' AND lot = $2 LIMIT $9::int) w) < $9
      ON CONFLICT (id) DO NOTHING`,
    values: [
      batch.id,
      batch.lot,
      batch.kind,
      batch.manifest,
      batch.manifestSha256,
      batch.keyId,
      batch.items.length,
      encodeItems(batch.items),
      waiting,
    ],
  });
  if (rowCount === 1) return true;
  const { rows } = await tx.query<{ manifest_sha256: string }>("SELECT manifest_sha256 FROM batch WHERE id = $1", [
    batch.id,
  ]);
  if (rows[0]?.manifest_sha256 === batch.manifestSha256) return false;
  if (rows.length === 0) {
    throw new CountersignError(
      "queue-full",
      `lot ${batch.lot} has ${waiting} batches waiting here: post this one again in ${RETRY_AFTER_SECONDS} s`,
      { details: { retryAfterSeconds: RETRY_AFTER_SECONDS } },
    );
  }
  throw new CountersignError("already-exists", `another manifest was posted as ${batch.id}: give each batch a new id`);
}

interface Row {
  id: string;
  lot: string;
  kind: BatchKind;
  manifest: Uint8Array;
  manifest_sha256: string;
  key_id: string;
  items: Uint8Array;
  state: Batch["state"];
}

const COLUMNS = "id, lot, kind, manifest, manifest_sha256, key_id, items, state";

function fromRow({ manifest_sha256, key_id, items, ...rest }: Row): Batch {
  return { ...rest, manifestSha256: manifest_sha256, keyId: key_id, items: splitPrefixed(items) };
}

function encodeItems(items: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(
    items.flatMap((item) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(item.length);
      return [length, item];
    }),
  );
}

/** @throws CountersignError `not-found` */
export async function getBatch(q: Queryable, id: string): Promise<Batch> {
  return (await getBatches(q, [id]))[0]!;
}

/** In the given order. @throws CountersignError `not-found` */
export async function getBatches(q: Queryable, ids: readonly string[]): Promise<Batch[]> {
  const { rows } = await q.query<Row>({
    name: "batch-get",
    text: `SELECT ${COLUMNS} FROM batch WHERE id = ANY($1)`,
    values: [ids],
  });
  const found = new Map(rows.map((row) => [row.id, row]));
  return ids.map((id) => fromRow(found.get(id) ?? notFound(id)));
}

/** Of these batches, those that there are: whose they are, and how many items they have, whatever became of their bytes. */
export async function batchSizes(q: Queryable, ids: readonly string[]): Promise<Map<string, BatchSize>> {
  const { rows } = await q.query<BatchSize & { id: string }>({
    name: "batch-sizes",
    text: "SELECT id, lot, count FROM batch WHERE id = ANY($1)",
    values: [ids],
  });
  return new Map(rows.map(({ id, ...size }) => [id, size]));
}

export interface BatchSize {
  readonly lot: string;
  /** items */
  readonly count: number;
}

/**
 * Keeps two attempts at one batch from running at once, and gives its state.
 * @throws CountersignError `not-found`
 */
export async function lockBatch(tx: Tx, id: string): Promise<Batch["state"]> {
  return (await lockPending(tx, [id])).has(id) ? "pending" : "done";
}

/**
 * As {@link lockBatch} for several, locked in the order of their ids whatever the given one is: those that aren't done.
 * @throws CountersignError `not-found`
 */
export async function lockPending(tx: Tx, ids: readonly string[]): Promise<Set<string>> {
  const { rows } = await tx.query<{ id: string; state: Batch["state"] }>({
    name: "batch-lock",
    text: "SELECT id, state FROM batch WHERE id = ANY($1) ORDER BY id FOR UPDATE",
    values: [ids],
  });
  const found = new Set(rows.map(({ id }) => id));
  for (const id of ids) if (!found.has(id)) notFound(id);
  return new Set(rows.flatMap(({ id, state }) => (state === "pending" ? [id] : [])));
}

export interface PendingBatch extends BatchSize {
  readonly id: string;
  readonly kind: BatchKind;
}

/** Batches that nobody finished within `olderThanMs`: their workflow may never have heard of them. */
export async function pendingBatches(q: Queryable, olderThanMs: number): Promise<PendingBatch[]> {
  const { rows } = await q.query<PendingBatch>(
    `SELECT id, lot, kind, count FROM batch
     WHERE state = 'pending' AND received < now() - make_interval(secs => $1) ORDER BY received LIMIT 10000`,
    [olderThanMs / 1000],
  );
  return rows;
}

/** Of one lot the oldest, whoever heard of them; installations are no work of the lot's. */
export async function pendingInLot(q: Queryable, lot: string, limit: number): Promise<PendingBatch[]> {
  const { rows } = await q.query<PendingBatch>(
    `SELECT id, lot, kind, count FROM batch
     WHERE state = 'pending' AND lot = $1 AND kind <> 'install' ORDER BY received, id LIMIT $2`,
    [lot, limit],
  );
  return rows;
}

/** Stores what became of items, in the caller's transaction; an item's first result stays. */
export async function insertResults(tx: Tx, results: readonly ItemResult[]): Promise<void> {
  if (results.length === 0) return;
  await withKeptPlans(tx, () =>
    tx.query({
      name: "batch-results",
      text: `INSERT INTO batch_result (batch, index, device, code, message)
      SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[]) ON CONFLICT DO NOTHING`,
      values: [
        texts(results.map((r) => r.batch)),
        ints(results.map((r) => r.index)),
        texts(results.map((r) => r.device ?? null)),
        results.map((r) => r.error?.code ?? null),
        results.map((r) => r.error?.message.slice(0, 500) ?? null),
      ],
    }),
  );
}

/** Which items of these batches have a result already. */
export async function answeredItems(q: Queryable, batches: readonly string[]): Promise<Answered> {
  const { rows } = await q.query<{ batch: string; index: number }>({
    name: "batch-answered",
    text: "SELECT batch, index FROM batch_result WHERE batch = ANY($1)",
    values: [batches],
  });
  const answered = new Map<string, Set<number>>();
  for (const { batch, index } of rows) {
    const indexes = answered.get(batch);
    if (indexes === undefined) answered.set(batch, new Set([index]));
    else indexes.add(index);
  }
  return (item) => answered.get(item.batch)?.has(item.index) === true;
}

export type Answered = (item: Pick<ItemResult, "batch" | "index">) => boolean;

/** Sent with each batch's id when it was finished; the transaction's commit delivers it. */
export const BATCH_CHANNEL = "batch_done";

/** Of several the caller has the locks. */
export async function finishBatches(tx: Tx, ids: readonly string[]): Promise<void> {
  await tx.query({
    name: "batch-finish",
    text: `WITH finished AS (UPDATE batch SET state = 'done' WHERE id = ANY($1))
      SELECT count(pg_notify('${BATCH_CHANNEL}', id)) FROM unnest($1::text[]) AS n(id)`,
    values: [ids],
  });
}

/** Of these batches, those that are done. */
export async function doneBatches(q: Queryable, ids: readonly string[]): Promise<Set<string>> {
  const { rows } = await q.query<{ id: string }>({
    name: "batch-done",
    text: "SELECT id FROM batch WHERE id = ANY($1) AND state = 'done'",
    values: [ids],
  });
  return new Set(rows.map((row) => row.id));
}

export interface BatchAnswer {
  readonly index: number;
  readonly deviceId: string | null;
  readonly slot: number | null;
  readonly certificate: Uint8Array | null;
  /** the grant it was certified under, by its act */
  readonly grantLeaf: string | null;
  readonly code: ErrorCode | null;
  readonly message: string | null;
}

/**
 * Every item's result, in order. A batch is done, and has results other than refusals, only when the records of its
 * devices are under a signed checkpoint: so are the certificates given here.
 * @throws CountersignError `not-found`
 */
export async function batchAnswers(
  q: Queryable,
  id: string,
): Promise<PendingBatch & { state: Batch["state"]; answers: BatchAnswer[] }> {
  const found = await q.query<PendingBatch & { state: Batch["state"] }>({
    name: "batch-state",
    text: "SELECT id, lot, kind, count, state FROM batch WHERE id = $1",
    values: [id],
  });
  const batch = found.rows[0] ?? notFound(id);
  if (batch.state !== "done") return { ...batch, answers: [] };
  const { rows } = await q.query<BatchAnswer>({
    name: "batch-answers",
    text: `SELECT r.index, r.device AS "deviceId", d.slot, r.code, r.message,
        CASE WHEN $2 THEN i.certificate END AS certificate, n.grant_leaf AS "grantLeaf"
      FROM batch_result r
      LEFT JOIN device d ON d.id = r.device AND r.code IS NULL
      LEFT JOIN lot l ON l.id = d.lot
      LEFT JOIN issuance_certificate i ON i.device = d.id AND i.profile = l.profile
      LEFT JOIN issuance_intent n ON n.device = i.device AND n.profile = i.profile AND $2
      WHERE r.batch = $1 ORDER BY r.index`,
    values: [id, batch.kind === "certify"],
  });
  return { ...batch, answers: rows };
}

function notFound(id: string): never {
  throw new CountersignError("not-found", `there is no batch ${id} on this site`);
}
