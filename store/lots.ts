import { CountersignError } from "../lib/domain/errors.ts";
import type { CertificateSettings } from "../lib/records/certificate-settings.ts";
import type { ActRef, ProfileRef } from "../lib/records/primitives.ts";
import type { Queryable, Tx } from "./db.ts";

export interface Lot {
  readonly id: string;
  readonly state: "open" | "closed";
  readonly builder: string;
  readonly issuer: string;
  readonly slots: number;
  readonly profile: ProfileRef;
  /** as the opener gave them, checked by services/custody */
  readonly layouts: unknown[];
  /** where the profile leaves a choice */
  readonly certificate: CertificateSettings;
  /** this site's own `lot-opened` act */
  readonly ref: ActRef;
}

export interface LotCounts {
  readonly built: number;
  readonly released: number;
  readonly received: number;
  readonly certified: number;
  readonly injected: number;
  readonly installed: number;
  readonly refused: number;
}

interface Row {
  id: string;
  state: Lot["state"];
  builder: string;
  issuer: string;
  slots: number;
  profile: string;
  profile_sha256: string;
  layouts: unknown[];
  settings: CertificateSettings;
  origin: string;
  leaf_hash: string;
}

const COLUMNS = "id, state, builder, issuer, slots, profile, profile_sha256, layouts, settings, origin, leaf_hash";

function fromRow({ profile, profile_sha256, settings, origin, leaf_hash, ...rest }: Row): Lot {
  const ref = { origin, leafHash: leaf_hash };
  return { ...rest, profile: { name: profile, sha256: profile_sha256 }, certificate: settings, ref };
}

export async function findLot(q: Queryable, id: string): Promise<Lot | undefined> {
  const { rows } = await q.query<Row>({
    name: "lot-find",
    text: `SELECT ${COLUMNS} FROM lot WHERE id = $1`,
    values: [id],
  });
  return rows[0] && fromRow(rows[0]);
}

/** @throws CountersignError `lot-not-found` */
export async function getLot(q: Queryable, id: string): Promise<Lot> {
  return (await findLot(q, id)) ?? notFound(id);
}

export async function listLots(q: Queryable): Promise<Lot[]> {
  const { rows } = await q.query<Row>(`SELECT ${COLUMNS} FROM lot ORDER BY opened DESC, id LIMIT 1000`);
  return rows.map(fromRow);
}

/**
 * The lot, locked FOR SHARE: it can't be closed under a transaction that records or issues for it.
 * @throws CountersignError `lot-not-found`, `lot-not-open`
 */
export async function lockOpenLot(tx: Tx, id: string): Promise<Lot> {
  const { rows } = await tx.query<Row>({
    name: "lot-lock",
    text: `SELECT ${COLUMNS} FROM lot WHERE id = $1 FOR SHARE`,
    values: [id],
  });
  const lot = rows[0] ? fromRow(rows[0]) : notFound(id);
  if (lot.state !== "open") {
    throw new CountersignError("lot-not-open", `the lot ${id} is ${lot.state}: nothing more is recorded for it`);
  }
  return lot;
}

/** Stores a lot whose `lot-opened` act is recorded. False when it is there already. */
export async function insertLot(
  tx: Tx,
  lot: Omit<Lot, "state" | "certificate"> & Partial<Pick<Lot, "certificate">>,
): Promise<boolean> {
  const { rowCount } = await tx.query(
    `INSERT INTO lot (id, state, builder, issuer, slots, profile, profile_sha256, layouts, settings, origin, leaf_hash)
     VALUES ($1, 'open', $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING`,
    [
      lot.id,
      lot.builder,
      lot.issuer,
      lot.slots,
      lot.profile.name,
      lot.profile.sha256,
      JSON.stringify(lot.layouts),
      JSON.stringify(lot.certificate ?? {}),
      lot.ref.origin,
      lot.ref.leafHash,
    ],
  );
  if (rowCount !== 1) return false;
  await tx.query("INSERT INTO lot_slots (lot, slots) VALUES ($1, $2)", [lot.id, lot.slots]);
  return true;
}

/**
 * Lets one transaction at a time add devices to a lot: what it then finds in the lot stays as it is until it commits.
 */
export async function lockSlots(tx: Tx, lot: string): Promise<void> {
  await tx.query({ name: "slots-lock", text: "SELECT 1 FROM lot_slots WHERE lot = $1 FOR UPDATE", values: [lot] });
}

/**
 * Takes up to `n` free slots, the lowest numbers first; fewer when the lot has no more. The counter stays locked until
 * the transaction ends, so two batches never take the same slot, and a rolled-back one gives its slots back.
 */
export async function takeSlots(tx: Tx, lot: string, n: number): Promise<number[]> {
  const { rows } = await tx.query<{ before: number; taken: number }>({
    name: "slots-take",
    text: `WITH free AS (SELECT lot, taken, slots FROM lot_slots WHERE lot = $1 FOR UPDATE)
      UPDATE lot_slots s SET taken = LEAST(free.taken + $2, free.slots) FROM free WHERE s.lot = free.lot
      RETURNING free.taken AS before, s.taken AS taken`,
    values: [lot, n],
  });
  const row = rows[0] ?? notFound(lot);
  return Array.from({ length: row.taken - row.before }, (_, i) => row.before + 1 + i);
}

/**
 * Costs by what changed since it was folded last (foldTallies) and by what is on its way into the tree, not by how many
 * devices there are. A device is `certified` with its
 * certificate, which is released a moment later: those whose record no signed checkpoint covers are taken off again.
 */
export async function countLot(q: Queryable, id: string): Promise<LotCounts> {
  const { rows } = await q.query<LotCounts>(
    `WITH uncovered AS (
       SELECT substring(p.retry_keys FROM o FOR 32) AS retry_key
       FROM ledger_pending p CROSS JOIN generate_series(1, octet_length(p.retry_keys), 32) o
       UNION SELECT retry_key FROM ledger_leaf
         WHERE leaf_index >= coalesce((SELECT max(size) FROM ledger_checkpoint), 0)
       UNION SELECT retry_key FROM ledger_act WHERE refused IS NOT NULL
     ), unreleased AS (
       SELECT count(*) AS n FROM uncovered u
         -- One look into the index each, as in takePending.
         CROSS JOIN LATERAL (SELECT type, entry FROM ledger_act WHERE retry_key = u.retry_key LIMIT 1) a
       -- Canonical JSON, and an id that needs no escape: of a refused act the bytes may be anything, JSON or not.
       WHERE a.type = 'certified' AND position(convert_to('"lot":"' || $1 || '",', 'UTF8') IN a.entry) > 0
     )
     SELECT coalesce(sum(built), 0)::bigint AS built,
       coalesce(sum(released), 0)::bigint AS released,
       coalesce(sum(received), 0)::bigint AS received,
       coalesce(sum(certified), 0)::bigint - (SELECT n FROM unreleased) AS certified,
       coalesce(sum(injected), 0)::bigint AS injected,
       coalesce(sum(installed), 0)::bigint AS installed,
       (SELECT count(*) FROM batch_result r JOIN batch b ON b.id = r.batch
         WHERE b.lot = $1 AND r.code IS NOT NULL) AS refused
     FROM lot_tally WHERE lot = $1`,
    [id],
  );
  return rows[0]!;
}

/** Rows that one fold takes in at most. */
const FOLDED = 10_000;

/**
 * Makes one row of a lot's oldest tally rows, for all lots that have many. In one statement, so that nobody sees them
 * missing or twice; rows of transactions that are still open come with the next one.
 * @returns how many rows went
 */
export async function foldTallies(q: Queryable): Promise<number> {
  const { rows } = await q.query<{ folded: number }>(
    `WITH oldest AS (
       SELECT id FROM lot_tally ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
     ), gone AS (
       DELETE FROM lot_tally WHERE id IN (SELECT id FROM oldest) RETURNING *
     ), kept AS (
       INSERT INTO lot_tally (lot, built, received, released, certified, installed, injected)
       SELECT lot, sum(built), sum(received), sum(released), sum(certified), sum(installed), sum(injected)
       FROM gone GROUP BY lot RETURNING 1
     )
     SELECT (SELECT count(*) FROM gone) - (SELECT count(*) FROM kept) AS folded`,
    [FOLDED],
  );
  return rows[0]!.folded;
}

function notFound(id: string): never {
  throw new CountersignError("lot-not-found", `there is no lot ${id} on this site: open it, or receive its handoff`);
}
