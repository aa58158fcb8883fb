import { CountersignError } from "../lib/domain/errors.ts";
import type { Queryable } from "./db.ts";

/** The CA's own paper: what it is about to sign, what it has signed, CRLs, the ceremony, the hub. */

export type IntentKind = "root" | "intermediate" | "hub-verification" | "crl";

export interface CaIntent {
  /** names the thing to be signed for good, for example `delegation/factory-y` */
  readonly id: string;
  readonly kind: IntentKind;
  readonly profile: string;
  readonly issuerKeyId: string;
  readonly subjectKeyId: string | null;
  readonly request: unknown;
  readonly tbs: Uint8Array;
  readonly result: Uint8Array | null;
}

const INTENT = `id, kind, profile, issuer_key_id AS "issuerKeyId", subject_key_id AS "subjectKeyId", request, tbs, result`;

export async function findIntent(q: Queryable, id: string): Promise<CaIntent | undefined> {
  const { rows } = await q.query<CaIntent>(`SELECT ${INTENT} FROM ca_intent WHERE id = $1`, [id]);
  return rows[0];
}

/** Stores the bytes that are about to be signed; the first ones stay. False when there were some already. */
export async function storeIntent(q: Queryable, intent: Omit<CaIntent, "result">): Promise<boolean> {
  const { rowCount } = await q.query(
    `INSERT INTO ca_intent (id, kind, profile, issuer_key_id, subject_key_id, request, tbs)
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING`,
    [
      intent.id,
      intent.kind,
      intent.profile,
      intent.issuerKeyId,
      intent.subjectKeyId,
      JSON.stringify(intent.request),
      intent.tbs,
    ],
  );
  return rowCount === 1;
}

/** The first result stays, and is what everyone gets: ECDSA may have signed twice. */
export async function storeResult(q: Queryable, id: string, result: Uint8Array): Promise<Uint8Array> {
  const { rows } = await q.query<{ result: Uint8Array }>(
    `UPDATE ca_intent SET result = COALESCE(result, $2), signed = COALESCE(signed, now()) WHERE id = $1 RETURNING result`,
    [id, result],
  );
  if (!rows[0]) throw new CountersignError("internal", `a signature without an intent: ${id}`);
  return rows[0].result;
}

export interface CaCertificate {
  readonly keyId: string;
  readonly role: "root" | "ca";
  readonly certificate: Uint8Array;
}

/** A root's stays; of an online CA's key it is the last one that was accepted, and the key's label stays. */
export async function storeCaCertificate(q: Queryable, ca: CaCertificate & { label?: string }): Promise<void> {
  await q.query(
    `INSERT INTO ca_certificate (key_id, role, certificate, label) VALUES ($1, $2, $3, $4)
     ON CONFLICT (key_id) DO UPDATE SET certificate = excluded.certificate WHERE ca_certificate.role = 'ca'`,
    [ca.keyId, ca.role, ca.certificate, ca.label ?? FIRST_CA_LABEL],
  );
}

/** The online CA's first key; one that takes its place is named after the grant's revision. */
export const FIRST_CA_LABEL = "ca";
export const rotatedCaLabel = (revision: number): string => `${FIRST_CA_LABEL}-${revision}`;

/** Which key of the token it is. One without a certificate yet is the first. */
export async function caLabel(q: Queryable, keyId: string): Promise<string> {
  const { rows } = await q.query<{ label: string }>("SELECT label FROM ca_certificate WHERE key_id = $1", [keyId]);
  return rows[0]?.label ?? FIRST_CA_LABEL;
}

/** The online CA's keys, the present one last: each with the last certificate for it. */
export async function listOnlineCas(q: Queryable): Promise<CaCertificate[]> {
  const { rows } = await q.query<CaCertificate>(
    `SELECT key_id AS "keyId", role, certificate FROM ca_certificate c WHERE role = 'ca' ORDER BY ${PRESENT}, added`,
  );
  return rows;
}

/** The certificate of this site's own CA: the root's at the top, the online CA's present one below. */
export async function findCaCertificate(q: Queryable): Promise<CaCertificate | undefined> {
  const { rows } = await q.query<CaCertificate>(
    `SELECT key_id AS "keyId", role, certificate FROM ca_certificate c ORDER BY ${PRESENT} DESC, added DESC LIMIT 1`,
  );
  return rows[0];
}

/** Of several keys, that of the grant in force: they may all have been written at one time. */
const PRESENT = "EXISTS (SELECT 1 FROM grant_received g WHERE g.current AND g.certificate = c.certificate)";

export interface StoredCrl {
  readonly keyId: string;
  readonly number: number;
  readonly der: Uint8Array;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
}

const CRL = `key_id AS "keyId", number, der, this_update AS "thisUpdate", next_update AS "nextUpdate"`;

export async function storeCrl(q: Queryable, crl: StoredCrl): Promise<void> {
  await q.query(
    `INSERT INTO crl (key_id, number, der, this_update, next_update) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT DO NOTHING`,
    [crl.keyId, crl.number, crl.der, crl.thisUpdate, crl.nextUpdate],
  );
}

/** @param name the first 16 hex digits of the CA's key id, as in its URL; without it the newest CRL of any own CA */
export async function currentCrl(q: Queryable, name?: string): Promise<StoredCrl | undefined> {
  const { rows } = await q.query<StoredCrl>(
    `SELECT ${CRL} FROM crl WHERE $1::text IS NULL OR left(key_id, 16) = $1 ORDER BY this_update DESC, number DESC LIMIT 1`,
    [name ?? null],
  );
  return rows[0];
}

export interface Ceremony {
  readonly id: string;
  readonly document: Uint8Array;
  readonly sha256: string;
  readonly state: "running" | "signed" | "done";
  readonly actOrigin: string | null;
  readonly actLeafHash: string | null;
}

const CEREMONY = `id, document, sha256, state, act_origin AS "actOrigin", act_leaf_hash AS "actLeafHash"`;

export async function findCeremony(q: Queryable, sha256: string): Promise<Ceremony | undefined> {
  const { rows } = await q.query<Ceremony>(`SELECT ${CEREMONY} FROM ceremony WHERE sha256 = $1`, [sha256]);
  return rows[0];
}

/**
 * Begins a ceremony. Another document may take the first one's place as long as no root was about to be signed.
 * @throws CountersignError `state-conflict`
 */
export async function storeCeremony(
  q: Queryable,
  ceremony: Pick<Ceremony, "id" | "document" | "sha256">,
): Promise<Ceremony> {
  await q.query(
    `INSERT INTO ceremony (id, document, sha256) VALUES ($1, $2, $3)
     ON CONFLICT (id) DO UPDATE SET document = excluded.document, sha256 = excluded.sha256
       WHERE ceremony.state = 'running' AND NOT EXISTS (SELECT 1 FROM ca_intent WHERE kind = 'root')`,
    [ceremony.id, ceremony.document, ceremony.sha256],
  );
  const { rows } = await q.query<Ceremony>(`SELECT ${CEREMONY} FROM ceremony WHERE id = $1`, [ceremony.id]);
  const stored = rows[0];
  if (stored?.sha256 === ceremony.sha256) return stored;
  throw new CountersignError(
    "state-conflict",
    `the ceremony of ${ceremony.id} was begun with another document, SHA-256 ${stored?.sha256 ?? "?"}`,
  );
}

export async function setCeremony(
  q: Queryable,
  sha256: string,
  change: { state: Ceremony["state"]; act?: { origin: string; leafHash: string } },
): Promise<void> {
  await q.query(
    `UPDATE ceremony SET state = $2, act_origin = COALESCE($3, act_origin), act_leaf_hash = COALESCE($4, act_leaf_hash)
     WHERE sha256 = $1`,
    [sha256, change.state, change.act?.origin ?? null, change.act?.leafHash ?? null],
  );
}

export interface HubRegistration {
  readonly name: string;
  readonly state: "requested" | "verified" | "registered" | "refused";
  readonly caSha256: string | null;
  readonly errorCode: string | null;
  readonly errorMessage: string | null;
}

export async function findHubRegistration(q: Queryable, name: string): Promise<HubRegistration | undefined> {
  const { rows } = await q.query<HubRegistration>(
    `SELECT name, state, ca_sha256 AS "caSha256", error_code AS "errorCode", error_message AS "errorMessage"
     FROM hub_registration WHERE name = $1`,
    [name],
  );
  return rows[0];
}

/** Begins, or begins again after a refusal. */
export async function requestHubRegistration(q: Queryable, name: string): Promise<void> {
  await q.query(
    `INSERT INTO hub_registration (name) VALUES ($1)
     ON CONFLICT (name) DO UPDATE SET state = 'requested', error_code = NULL, error_message = NULL
       WHERE hub_registration.state = 'refused'`,
    [name],
  );
}

export async function setHubRegistration(
  q: Queryable,
  name: string,
  change: { state: HubRegistration["state"]; caSha256?: string; refusal?: { code: string; message: string } },
): Promise<void> {
  await q.query(
    `UPDATE hub_registration SET state = $2, ca_sha256 = COALESCE($3, ca_sha256), error_code = $4, error_message = $5
     WHERE name = $1`,
    [
      name,
      change.state,
      change.caSha256 ?? null,
      change.refusal?.code ?? null,
      change.refusal?.message.slice(0, 1000) ?? null,
    ],
  );
}

/** The ceremony whose act is in the ledger. */
export async function lastCeremony(q: Queryable): Promise<Ceremony | undefined> {
  const { rows } = await q.query<Ceremony>(
    `SELECT ${CEREMONY} FROM ceremony WHERE act_leaf_hash IS NOT NULL ORDER BY created DESC LIMIT 1`,
  );
  return rows[0];
}

/** Under which a hub's verification certificate is kept. */
export const hubIntent = (name: string): string => `hub-verification/${name}`;
