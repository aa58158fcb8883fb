import { CountersignError } from "../lib/domain/errors.ts";
import type { HandoffItem } from "../lib/records/manifest.ts";
import type { Queryable, Tx } from "./db.ts";

/** Devices on their way between parties: releases of this site, and offers to it. */

export type HandoffState = "releasing" | "released" | "closed" | "offered" | "open" | "received" | "refused";

export interface Handoff {
  readonly id: string;
  readonly direction: "out" | "in";
  readonly lot: string;
  readonly peer: string;
  readonly state: HandoffState;
  readonly count: number;
  readonly listRoot: string;
  readonly discrepancies: string[] | null;
  /** what this site's own act claims as its time */
  readonly time: Date;
  readonly releaseAct: Uint8Array | null;
  readonly releaseLeaf: string | null;
  readonly receiptLeaf: string | null;
  readonly errorCode: string | null;
  readonly errorMessage: string | null;
}

const COLUMNS = `id, direction, lot, peer, state, count, list_root AS "listRoot", discrepancies, time,
  release_act AS "releaseAct", release_leaf AS "releaseLeaf", receipt_leaf AS "receiptLeaf",
  error_code AS "errorCode", error_message AS "errorMessage"`;

export async function findHandoff(q: Queryable, id: string): Promise<Handoff | undefined> {
  const { rows } = await q.query<Handoff>(`SELECT ${COLUMNS} FROM handoff WHERE id = $1`, [id]);
  return rows[0];
}

/** @throws CountersignError `not-found` */
export async function getHandoff(q: Queryable, id: string): Promise<Handoff> {
  return (await findHandoff(q, id)) ?? notFound(id);
}

/** Keeps two attempts at one step apart. @throws CountersignError `not-found` */
export async function lockHandoff(tx: Tx, id: string): Promise<Handoff> {
  const { rows } = await tx.query<Handoff>(`SELECT ${COLUMNS} FROM handoff WHERE id = $1 FOR UPDATE`, [id]);
  return rows[0] ?? notFound(id);
}

export async function listHandoffs(q: Queryable, lot: string | undefined): Promise<Handoff[]> {
  const { rows } = await q.query<Handoff>(
    `SELECT ${COLUMNS} FROM handoff WHERE $1::text IS NULL OR lot = $1 ORDER BY time DESC LIMIT 1000`,
    [lot ?? null],
  );
  return rows;
}

/** Handoffs whose workflow may never have been started: nothing was done about them within `olderThanMs`. */
export async function waitingHandoffs(q: Queryable, olderThanMs: number): Promise<Pick<Handoff, "id" | "direction">[]> {
  const { rows } = await q.query<Pick<Handoff, "id" | "direction">>(
    `SELECT id, direction FROM handoff
     WHERE state IN ('releasing', 'offered') AND time < now() - make_interval(secs => $1) ORDER BY time LIMIT 1000`,
    [olderThanMs / 1000],
  );
  return rows;
}

/** The list and the lot's terms: large, so read only where they are needed. */
export async function handoffList(q: Queryable, id: string): Promise<{ list: Uint8Array; terms: unknown }> {
  const { rows } = await q.query<{ list: Uint8Array; terms: unknown }>(
    "SELECT list, terms FROM handoff WHERE id = $1",
    [id],
  );
  return rows[0] ?? notFound(id);
}

export interface NewHandoff {
  readonly id: string;
  readonly direction: "out" | "in";
  readonly lot: string;
  readonly peer: string;
  readonly state: "releasing" | "offered";
  readonly count: number;
  readonly listRoot: string;
  readonly list: Uint8Array;
  readonly terms: unknown;
  readonly time: Date;
  readonly releaseAct?: Uint8Array;
  readonly releaseLeaf?: string;
}

/** False when the id is taken. */
export async function insertHandoff(tx: Tx, handoff: NewHandoff): Promise<boolean> {
  const { rowCount } = await tx.query(
    `INSERT INTO handoff (id, direction, lot, peer, state, count, list_root, list, terms, time, release_act, release_leaf)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (id) DO NOTHING`,
    [
      handoff.id,
      handoff.direction,
      handoff.lot,
      handoff.peer,
      handoff.state,
      handoff.count,
      handoff.listRoot,
      handoff.list,
      JSON.stringify(handoff.terms),
      handoff.time,
      handoff.releaseAct ?? null,
      handoff.releaseLeaf ?? null,
    ],
  );
  return rowCount === 1;
}

export interface HandoffChange {
  readonly state: HandoffState;
  readonly time?: Date;
  readonly discrepancies?: readonly string[];
  readonly releaseAct?: Uint8Array;
  readonly releaseLeaf?: string;
  readonly receiptAct?: Uint8Array;
  readonly receiptLeaf?: string;
  readonly error?: { code: string; message: string };
}

export async function updateHandoff(tx: Queryable, id: string, change: HandoffChange): Promise<void> {
  await tx.query(
    `UPDATE handoff SET state = $2, time = COALESCE($3, time), discrepancies = COALESCE($4, discrepancies),
       release_act = COALESCE($5, release_act), release_leaf = COALESCE($6, release_leaf),
       receipt_act = COALESCE($7, receipt_act), receipt_leaf = COALESCE($8, receipt_leaf),
       error_code = $9, error_message = $10
     WHERE id = $1`,
    [
      id,
      change.state,
      change.time ?? null,
      change.discrepancies === undefined ? null : JSON.stringify(change.discrepancies),
      change.releaseAct ?? null,
      change.releaseLeaf ?? null,
      change.receiptAct ?? null,
      change.receiptLeaf ?? null,
      change.error?.code ?? null,
      change.error?.message.slice(0, 500) ?? null,
    ],
  );
}

/**
 * Locks what the lot has in hand that isn't certified here, in slot order. Two statements: the second look at issuance
 * happens when the locks are held, so a device whose intent was just committed isn't among them.
 */
export async function lockReleasable(tx: Tx, lot: string): Promise<HandoffItem[]> {
  const locked = await tx.query<{ id: string }>(
    "SELECT id FROM device WHERE lot = $1 AND held AND stage IN ('built', 'received') ORDER BY id FOR UPDATE",
    [lot],
  );
  const { rows } = await tx.query<HandoffItem>(
    `SELECT d.id AS "deviceId", d.spki_sha256 AS "spkiSha256", d.csr_sha256 AS "csrSha256", d.slot,
       d.prev->>'leafHash' AS prev
     FROM device d WHERE d.id = ANY($1) AND NOT EXISTS (SELECT 1 FROM issuance_intent i WHERE i.device = d.id) ORDER BY d.slot`,
    [locked.rows.map((row) => row.id)],
  );
  return rows;
}

/** From here on the devices are out of this site's hands, whatever becomes of the act and the envelope. */
export async function claimForHandoff(tx: Tx, handoff: string, devices: readonly string[]): Promise<void> {
  await tx.query("UPDATE device SET held = false, handoff = $1 WHERE id = ANY($2)", [handoff, devices]);
}

function notFound(id: string): never {
  throw new CountersignError("not-found", `there is no handoff ${id} on this site`);
}
