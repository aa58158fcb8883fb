import type { Queryable } from "./db.ts";

/** What this site keeps as a witness of other parties' logs. */

export interface WitnessedLog {
  readonly size: number;
  readonly root: Uint8Array;
  /** the checkpoint as it was handed in */
  readonly note: Uint8Array;
}

/** The last checkpoint of a log that this witness cosigned. */
export async function witnessedLog(q: Queryable, origin: string): Promise<WitnessedLog | undefined> {
  const { rows } = await q.query<WitnessedLog>("SELECT size, root, note FROM witness_log WHERE origin = $1", [origin]);
  return rows[0];
}

export async function witnessedLogs(q: Queryable): Promise<({ origin: string; cosigned: Date } & WitnessedLog)[]> {
  const { rows } = await q.query<{ origin: string; cosigned: Date } & WitnessedLog>(
    "SELECT origin, size, root, note, cosigned FROM witness_log ORDER BY origin",
  );
  return rows;
}

/**
 * Compare-and-set from what was last cosigned (undefined: nothing yet) to `to`, durable when it resolves. False: another
 * request came first, and nothing was changed.
 */
export async function advanceWitnessed(
  q: Queryable,
  origin: string,
  from: Pick<WitnessedLog, "size" | "root"> | undefined,
  to: WitnessedLog,
): Promise<boolean> {
  // One statement is one transaction: the record and the history that it belongs to are kept together or not at all.
  const moved =
    from === undefined
      ? `INSERT INTO witness_log (origin, size, root, note) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`
      : `UPDATE witness_log SET size = $2, root = $3, note = $4, cosigned = now()
         WHERE origin = $1 AND size = $5 AND root = $6`;
  const { rows } = await q.query(
    `WITH moved AS (${moved} RETURNING origin),
       kept AS (INSERT INTO witness_checkpoint (origin, size, note)
         SELECT origin, $2, $4 FROM moved ON CONFLICT DO NOTHING)
     SELECT origin FROM moved`,
    [origin, to.size, to.root, to.note, ...(from === undefined ? [] : [from.size, from.root])],
  );
  return rows.length === 1;
}

/** Kept of a log, for each reason: one that contradicts itself all day proves no more than it did at first. */
const EVIDENCE_A_LOG = 64;

export async function keepEvidence(
  q: Queryable,
  evidence: { origin: string; sha256: Uint8Array; reason: string; request: Uint8Array; known: Uint8Array | undefined },
): Promise<boolean> {
  const { rowCount } = await q.query(
    `INSERT INTO witness_evidence (origin, sha256, reason, request, known)
     SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM witness_evidence WHERE origin = $1 AND reason = $3) < ${EVIDENCE_A_LOG}
     ON CONFLICT DO NOTHING`,
    [evidence.origin, evidence.sha256, evidence.reason, evidence.request, evidence.known ?? null],
  );
  return rowCount === 1;
}

export interface WitnessEvidence {
  readonly origin: string;
  readonly reason: string;
  readonly request: Uint8Array;
  readonly known: Uint8Array | null;
  readonly received: Date;
}

export async function listEvidence(q: Queryable): Promise<WitnessEvidence[]> {
  const { rows } = await q.query<WitnessEvidence>(
    "SELECT origin, reason, request, known, received FROM witness_evidence ORDER BY id",
  );
  return rows;
}
