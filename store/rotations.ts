import { CountersignError } from "../lib/domain/errors.ts";
import type { Queryable, Tx } from "./db.ts";
import { rotationUnderWay } from "./grants.ts";

/** This site's CA changing its key: one row for each grant in whose place one for a new key is to come. */

export interface CaRotation {
  /** leaf hash of the grant that is in force until then */
  readonly supersedes: string;
  /** the new key's, in the CA's token */
  readonly label: string;
  readonly attempt: number;
  readonly state: "requested" | "sent" | "accepted" | "refused";
  /** DER, once both keys have signed their requests */
  readonly oldSpki: Uint8Array | null;
  readonly newSpki: Uint8Array | null;
  readonly oldProof: Uint8Array | null;
  readonly newProof: Uint8Array | null;
  /** of the ledger; from when it is fixed there is no way back */
  readonly effectiveSize: number | null;
  readonly requested: Date;
  readonly errorCode: string | null;
  readonly errorMessage: string | null;
}

const COLUMNS = `supersedes, label, attempt, state, old_spki AS "oldSpki", new_spki AS "newSpki", old_proof AS "oldProof",
  new_proof AS "newProof", effective_size AS "effectiveSize", requested, error_code AS "errorCode",
  error_message AS "errorMessage"`;

export async function findRotation(q: Queryable, supersedes: string): Promise<CaRotation | undefined> {
  const { rows } = await q.query<CaRotation>(`SELECT ${COLUMNS} FROM ca_rotation WHERE supersedes = $1`, [supersedes]);
  return rows[0];
}

/** Oldest first. */
export async function listRotations(q: Queryable): Promise<CaRotation[]> {
  return (await q.query<CaRotation>(`SELECT ${COLUMNS} FROM ca_rotation ORDER BY requested`)).rows;
}

/** Asks for it, or for it again after a refusal. One that is under way, or done, stays as it is. */
export async function requestRotation(
  q: Queryable,
  rotation: { supersedes: string; label: string; by: string },
): Promise<void> {
  await q.query(
    `INSERT INTO ca_rotation (supersedes, label, requested_by) VALUES ($1, $2, $3)
     ON CONFLICT (supersedes) DO UPDATE SET state = 'requested', attempt = ca_rotation.attempt + 1,
       requested_by = excluded.requested_by, error_code = NULL, error_message = NULL
     WHERE ca_rotation.state = 'refused'`,
    [rotation.supersedes, rotation.label, rotation.by],
  );
}

/** Keeps the first proofs; gives back the row as it is then. @throws CountersignError `not-found` */
export async function storeProofs(
  q: Queryable,
  supersedes: string,
  proofs: { oldSpki: Uint8Array; newSpki: Uint8Array; oldProof: Uint8Array; newProof: Uint8Array },
): Promise<CaRotation> {
  const { rows } = await q.query<CaRotation>(
    `UPDATE ca_rotation SET old_spki = COALESCE(old_spki, $2), new_spki = COALESCE(new_spki, $3),
       old_proof = COALESCE(old_proof, $4), new_proof = COALESCE(new_proof, $5)
     WHERE supersedes = $1 RETURNING ${COLUMNS}`,
    [supersedes, proofs.oldSpki, proofs.newSpki, proofs.oldProof, proofs.newProof],
  );
  if (rows[0]) return rows[0];
  throw new CountersignError("not-found", "nobody asked for another CA key here");
}

/** Before it is sent: one that was lost (a token set back) is given up for this one, as nothing was signed with it. */
export async function giveUpLostKey(q: Queryable, supersedes: string, newSpki: Uint8Array): Promise<void> {
  await q.query(
    `UPDATE ca_rotation SET old_spki = NULL, new_spki = NULL, old_proof = NULL, new_proof = NULL
     WHERE supersedes = $1 AND state = 'requested' AND effective_size IS NULL AND new_spki <> $2`,
    [supersedes, newSpki],
  );
}

export async function setRotation(
  q: Queryable,
  supersedes: string,
  change: { state: "sent" | "accepted" } | { state: "refused"; refusal: { code: string; message: string } },
): Promise<void> {
  const refusal = "refusal" in change ? change.refusal : undefined;
  await q.query(
    `UPDATE ca_rotation SET state = $2, error_code = $3, error_message = $4
     WHERE supersedes = $1 AND (state <> 'accepted' OR $2 = 'accepted')`,
    [supersedes, change.state, refusal?.code ?? null, refusal?.message.slice(0, 1000) ?? null],
  );
}

/**
 * From its commit on nothing more is begun under the grant: whoever was spending its quota has committed before, and
 * whoever comes later is sent away.
 * @returns up to where the ledger's queue holds what was begun before
 */
export async function closeGrant(tx: Tx, leafHash: string): Promise<number> {
  await tx.query("UPDATE grant_received SET closing = true WHERE current AND leaf_hash = $1", [leafHash]);
  const { rows } = await tx.query<{ last: number }>("SELECT coalesce(max(id), 0) AS last FROM ledger_pending");
  return Number(rows[0]!.last);
}

/** Takes it back, as long as the new key's effective size isn't fixed. */
export async function reopenGrant(tx: Tx, leafHash: string): Promise<void> {
  await lockClosing(tx, leafHash);
  await tx.query(
    `UPDATE grant_received g SET closing = false WHERE g.current AND g.leaf_hash = $1 AND NOT EXISTS (
       SELECT 1 FROM ca_rotation r WHERE r.supersedes = g.leaf_hash AND r.effective_size IS NOT NULL)`,
    [leafHash],
  );
}

/** Has everything that was queued up to there left the queue? */
export async function queueIsPast(q: Queryable, last: number): Promise<boolean> {
  const { rowCount } = await q.query("SELECT 1 FROM ledger_pending WHERE id <= $1 LIMIT 1", [last]);
  return rowCount === 0;
}

/** A statement of its own: what follows it sees what was committed while this waited. */
async function lockClosing(tx: Tx, leafHash: string): Promise<boolean> {
  const sql = "SELECT closing FROM grant_received WHERE current AND leaf_hash = $1 FOR UPDATE";
  return (await tx.query<{ closing: boolean }>(sql, [leafHash])).rows[0]?.closing === true;
}

/**
 * The first one stays.
 * @throws CountersignError `not-found`; `rotation-under-way` when the grant was opened again after it was closed: what was
 *   begun under it since would lie behind this size
 */
export async function fixEffectiveSize(tx: Tx, supersedes: string, size: number): Promise<number> {
  if (!(await lockClosing(tx, supersedes))) throw rotationUnderWay();
  const { rows } = await tx.query<{ size: number }>(
    `UPDATE ca_rotation SET effective_size = COALESCE(effective_size, $2) WHERE supersedes = $1
     RETURNING effective_size AS size`,
    [supersedes, size],
  );
  if (rows[0]) return Number(rows[0].size);
  throw new CountersignError("not-found", "nobody asked for another CA key here");
}

/** Children whose grant or certificate is being made under this CA key: their acts would come too late for it. */
export async function delegationsUnderWay(q: Queryable, issuerKeyId: string): Promise<string[]> {
  const { rows } = await q.query<{ child: string }>(
    `SELECT child FROM delegation d WHERE state = 'requested' AND act_leaf_hash IS NULL AND EXISTS (
       SELECT 1 FROM ca_intent i WHERE i.issuer_key_id = $1 AND i.id = CASE revision WHEN 1 THEN 'delegation/' || child
         ELSE 'delegation/' || child || '/' || revision END)`,
    [issuerKeyId],
  );
  return rows.map(({ child }) => child);
}
