import type { ActFields } from "../lib/records/acts.ts";
import type { Queryable, Tx } from "./db.ts";

/** What is revoked or held of this site's own certificates, and how far each step has come. */

export type RevocationTarget = "device" | "ca";
export type RevocationEffect = ActFields<"revoked">["effect"];

/** A certificate of one of this site's CA keys that its ledger holds. */
export interface OwnCertificate {
  readonly target: RevocationTarget;
  /** the device's ID, or the child */
  readonly subject: string;
  readonly subjectKeyId: string;
  readonly certificate: Uint8Array;
  readonly issuerKeyId: string;
  readonly serial: string;
  /** hex, of the act that holds it */
  readonly leafHash: string;
}

export interface Revocation extends Omit<OwnCertificate, "leafHash"> {
  readonly id: number;
  readonly certificateLeaf: string;
  readonly step: number;
  readonly effect: RevocationEffect;
  readonly reason: string;
  readonly invalidity: Date | null;
  readonly requestedBy: string;
  readonly requested: Date;
  readonly time: Date | null;
  readonly actLeaf: string | null;
  readonly crlNumber: number | null;
  readonly told: Date | null;
  readonly errorCode: string | null;
  readonly errorMessage: string | null;
}

const COLUMNS = `id, certificate_leaf AS "certificateLeaf", step, target, subject, subject_key_id AS "subjectKeyId",
  certificate, issuer_key_id AS "issuerKeyId", serial, effect, reason, invalidity, requested_by AS "requestedBy",
  requested, time, act_leaf AS "actLeaf", crl_number AS "crlNumber", told, error_code AS "errorCode",
  error_message AS "errorMessage"`;

/** Of the last step of every certificate. */
const LAST = "step = (SELECT max(l.step) FROM revocation l WHERE l.certificate_leaf = r.certificate_leaf)";

/** A device's certificates that are released; the device's row is locked until the transaction ends. */
export async function lockDeviceCertificates(tx: Tx, device: string): Promise<OwnCertificate[]> {
  await tx.query("SELECT 1 FROM device WHERE id = $1 FOR UPDATE", [device]);
  const { rows } = await tx.query<Omit<OwnCertificate, "target">>(
    `SELECT i.device AS subject, d.spki_sha256 AS "subjectKeyId", i.certificate, i.issuer_key_id AS "issuerKeyId",
       i.serial, i.certified_leaf AS "leafHash"
     FROM released_issuance i JOIN device d ON d.id = i.device
     WHERE i.device = $1 AND i.certificate IS NOT NULL ORDER BY i.profile`,
    [device],
  );
  return rows.map((row) => ({ ...row, target: "device" as const }));
}

/** What was said of a certificate so far, in order. */
export async function stepsOf(q: Queryable, certificateLeaf: string): Promise<Revocation[]> {
  const { rows } = await q.query<Revocation>(
    `SELECT ${COLUMNS} FROM revocation WHERE certificate_leaf = $1 ORDER BY step`,
    [certificateLeaf],
  );
  return rows;
}

export interface NewStep extends OwnCertificate {
  readonly step: number;
  readonly effect: RevocationEffect;
  readonly reason: string;
  readonly invalidity: Date | null;
  readonly requestedBy: string;
}

/** @throws a unique violation when another transaction was first; the caller's lock makes that impossible */
export async function insertStep(tx: Tx, step: NewStep): Promise<Revocation> {
  const { rows } = await tx.query<Revocation>(
    `INSERT INTO revocation (certificate_leaf, step, target, subject, subject_key_id, certificate, issuer_key_id, serial,
       effect, reason, invalidity, requested_by)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING ${COLUMNS}`,
    [
      step.leafHash,
      step.step,
      step.target,
      step.subject,
      step.subjectKeyId,
      step.certificate,
      step.issuerKeyId,
      step.serial,
      step.effect,
      step.reason,
      step.invalidity,
      step.requestedBy,
    ],
  );
  return rows[0]!;
}

/**
 * Of these devices, those of which a certificate is revoked or held. A hold counts until the act that lifts it is
 * recorded: a custody step that comes after it in the ledger can't be recorded before.
 */
export async function takenBack(q: Queryable, devices: readonly string[]): Promise<Set<string>> {
  const { rows } = await q.query<{ subject: string }>(
    `SELECT DISTINCT subject FROM revocation r WHERE target = 'device' AND subject = ANY($1) AND ${LAST}
       AND (effect <> 'lift' OR act_leaf IS NULL)`,
    [devices],
  );
  return new Set(rows.map(({ subject }) => subject));
}

/** Steps whose act isn't recorded, in order. What was refused for good isn't tried again. */
export async function unrecordedSteps(q: Queryable, limit: number): Promise<Revocation[]> {
  const { rows } = await q.query<Revocation>(
    `SELECT ${COLUMNS} FROM revocation WHERE act_leaf IS NULL AND error_code IS NULL ORDER BY id LIMIT $1`,
    [limit],
  );
  return rows;
}

/** The act that a step of this certificate comes after: the last recorded one about it, or the one that holds it. */
export async function actBefore(q: Queryable, { certificateLeaf, step }: Revocation): Promise<string> {
  const { rows } = await q.query<{ act: string }>(
    `SELECT act_leaf AS act FROM revocation WHERE certificate_leaf = $1 AND step < $2 AND act_leaf IS NOT NULL
     ORDER BY step DESC LIMIT 1`,
    [certificateLeaf, step],
  );
  return rows[0]?.act ?? certificateLeaf;
}

export async function storeStepAct(q: Queryable, id: number, act: { leafHash: string; time: Date }): Promise<void> {
  await q.query("UPDATE revocation SET act_leaf = COALESCE(act_leaf, $2), time = COALESCE(time, $3) WHERE id = $1", [
    id,
    act.leafHash,
    act.time,
  ]);
}

export async function refuseStep(q: Queryable, id: number, error: { code: string; message: string }): Promise<void> {
  await q.query("UPDATE revocation SET error_code = $2, error_message = $3 WHERE id = $1 AND act_leaf IS NULL", [
    id,
    error.code,
    error.message.slice(0, 1000),
  ]);
}

export interface CrlRow {
  readonly serial: string;
  readonly effect: RevocationEffect;
  readonly reason: string;
  readonly invalidity: Date | null;
  readonly time: Date;
  /** the certificate's own; null when nobody has read it yet */
  readonly notAfter: Date | null;
  /** of the first CRL that says so */
  readonly crlNumber: number | null;
}

/** What a CRL of this CA key may list: the last recorded step of every certificate that isn't lifted, by serial number. */
export async function crlEntries(q: Queryable, issuerKeyId: string): Promise<CrlRow[]> {
  const { rows } = await q.query<CrlRow>(
    `SELECT * FROM (
       SELECT DISTINCT ON (certificate_leaf) serial, effect, reason, invalidity, time, not_after AS "notAfter",
         crl_number AS "crlNumber"
       FROM revocation
       WHERE issuer_key_id = $1 AND act_leaf IS NOT NULL ORDER BY certificate_leaf, step DESC) s
     WHERE effect <> 'lift' ORDER BY serial`,
    [issuerKeyId],
  );
  return rows;
}

/** Certificates whose end nobody has read yet. */
export async function endlessCertificates(
  q: Queryable,
  issuerKeyId: string,
  limit: number,
): Promise<{ id: number; certificate: Uint8Array }[]> {
  const sql = `SELECT id, certificate FROM revocation WHERE issuer_key_id = $1 AND not_after IS NULL ORDER BY id DESC LIMIT $2`;
  return (await q.query<{ id: number; certificate: Uint8Array }>(sql, [issuerKeyId, limit])).rows;
}

export async function noteEnds(q: Queryable, ends: readonly { id: number; notAfter: Date }[]): Promise<void> {
  await q.query(
    `UPDATE revocation SET not_after = read.not_after
     FROM unnest($1::bigint[], $2::timestamptz[]) AS read (id, not_after) WHERE revocation.id = read.id`,
    [ends.map(({ id }) => id), ends.map(({ notAfter }) => notAfter)],
  );
}

/** CA keys with a recorded step that no CRL has said yet. */
export async function unpublishedKeys(q: Queryable): Promise<string[]> {
  const { rows } = await q.query<{ key: string }>(
    "SELECT DISTINCT issuer_key_id AS key FROM revocation WHERE act_leaf IS NOT NULL AND crl_number IS NULL",
  );
  return rows.map(({ key }) => key);
}

/** @param acts what was recorded before the CRL was made: leaf hashes */
export async function markPublished(q: Queryable, acts: readonly string[], crlNumber: number): Promise<void> {
  await q.query("UPDATE revocation SET crl_number = $2 WHERE act_leaf = ANY($1) AND crl_number IS NULL", [
    acts,
    crlNumber,
  ]);
}

/** Recorded steps of a CA key that no CRL has said yet: their acts' leaf hashes. */
export async function unpublishedActs(q: Queryable, issuerKeyId: string): Promise<string[]> {
  const { rows } = await q.query<{ act: string }>(
    "SELECT act_leaf AS act FROM revocation WHERE issuer_key_id = $1 AND act_leaf IS NOT NULL AND crl_number IS NULL",
    [issuerKeyId],
  );
  return rows.map(({ act }) => act);
}

/** Recorded steps that some hub may not know yet, in order. */
export async function untoldSteps(q: Queryable, limit: number): Promise<Revocation[]> {
  const { rows } = await q.query<Revocation>(
    `SELECT ${COLUMNS} FROM revocation WHERE act_leaf IS NOT NULL AND told IS NULL ORDER BY id LIMIT $1`,
    [limit],
  );
  return rows;
}

export async function markTold(q: Queryable, ids: readonly number[]): Promise<void> {
  await q.query("UPDATE revocation SET told = now() WHERE id = ANY($1) AND told IS NULL", [ids]);
}

/** Is there a step that somebody has to do something about? */
export async function anyOpenStep(q: Queryable): Promise<boolean> {
  const { rowCount } = await q.query(
    `SELECT 1 FROM revocation WHERE (act_leaf IS NULL AND error_code IS NULL)
       OR (act_leaf IS NOT NULL AND told IS NULL) LIMIT 1`,
  );
  return (rowCount ?? 0) > 0;
}

export async function findSteps(q: Queryable, ids: readonly number[]): Promise<Revocation[]> {
  const { rows } = await q.query<Revocation>(`SELECT ${COLUMNS} FROM revocation WHERE id = ANY($1) ORDER BY id`, [ids]);
  return rows;
}

/** The newest first. */
export async function listSteps(q: Queryable, before: number, limit: number): Promise<Revocation[]> {
  const { rows } = await q.query<Revocation>(
    `SELECT ${COLUMNS} FROM revocation WHERE id < $1 ORDER BY id DESC LIMIT $2`,
    [before, limit],
  );
  return rows;
}
