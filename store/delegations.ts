import { CountersignError } from "../lib/domain/errors.ts";
import type { GrantTerms } from "../lib/records/grant.ts";
import type { Keyset } from "../lib/records/keyset.ts";
import type { Queryable, Tx } from "./db.ts";

/** A child's request for this site's grant, and what was granted: one row a child. */

export interface JoinedChild {
  readonly child: string;
  readonly invitation: string;
  readonly nonceSha256: string;
  readonly csr: Uint8Array;
  readonly csrSha256: string;
  readonly keyset: Keyset;
  readonly keysetOrigin: string;
  readonly keysetLeafHash: string;
  readonly keysetEntry: Uint8Array;
  readonly infrastructure: Uint8Array;
}

export type DelegationState = "joined" | "requested" | "issued" | "accepted" | "refused";

export interface Delegation extends JoinedChild {
  readonly state: DelegationState;
  readonly terms: GrantTerms | null;
  readonly signer: "ceremony" | "site" | null;
  readonly certificate: Uint8Array | null;
  readonly actOrigin: string | null;
  readonly actLeafHash: string | null;
  readonly actEntry: Uint8Array | null;
  readonly acceptanceLeafHash: string | null;
  readonly errorCode: string | null;
  readonly errorMessage: string | null;
  readonly joined: Date;
  /** of the grant; the fields above are of this one */
  readonly revision: number;
  /** the act of the revision before, and the certificate in it */
  readonly supersededLeafHash: string | null;
  readonly supersededCertificate: Uint8Array | null;
  /** the request of its last CA key by which the child asked for a certificate for another; DER */
  readonly rotationProof: Uint8Array | null;
  /** id of the message by which the child said no to the recorded grant, last */
  readonly refusedBy: string | null;
}

const COLUMNS = `child, state, invitation, nonce_sha256 AS "nonceSha256", csr, csr_sha256 AS "csrSha256", keyset,
  keyset_origin AS "keysetOrigin", keyset_leaf_hash AS "keysetLeafHash", keyset_entry AS "keysetEntry", infrastructure,
  terms, signer, certificate, act_origin AS "actOrigin", act_leaf_hash AS "actLeafHash", act_entry AS "actEntry",
  acceptance_leaf_hash AS "acceptanceLeafHash", error_code AS "errorCode", error_message AS "errorMessage", joined,
  revision, superseded_leaf_hash AS "supersededLeafHash", superseded_certificate AS "supersededCertificate",
  rotation_proof AS "rotationProof", refused_by AS "refusedBy"`;

export async function findDelegation(q: Queryable, child: string): Promise<Delegation | undefined> {
  const { rows } = await q.query<Delegation>(`SELECT ${COLUMNS} FROM delegation WHERE child = $1`, [child]);
  return rows[0];
}

/** @throws CountersignError `not-found` */
export async function getDelegation(q: Queryable, child: string): Promise<Delegation> {
  return (await findDelegation(q, child)) ?? notFound(child);
}

/** The same, locked: its terms stay as they are until the transaction ends. @throws CountersignError `not-found` */
export async function lockDelegation(tx: Tx, child: string): Promise<Delegation> {
  const { rows } = await tx.query<Delegation>(`SELECT ${COLUMNS} FROM delegation WHERE child = $1 FOR UPDATE`, [child]);
  return rows[0] ?? notFound(child);
}

export async function listDelegations(q: Queryable): Promise<Delegation[]> {
  const { rows } = await q.query<Delegation>(`SELECT ${COLUMNS} FROM delegation ORDER BY joined`);
  return rows;
}

export async function storeJoin(tx: Tx, join: JoinedChild): Promise<void> {
  await tx.query(
    `INSERT INTO delegation (child, invitation, nonce_sha256, csr, csr_sha256, keyset, keyset_origin, keyset_leaf_hash,
       keyset_entry, infrastructure)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    [
      join.child,
      join.invitation,
      join.nonceSha256,
      join.csr,
      join.csrSha256,
      JSON.stringify(join.keyset),
      join.keysetOrigin,
      join.keysetLeafHash,
      join.keysetEntry,
      join.infrastructure,
    ],
  );
}

/**
 * Keeps what the operator (or the ceremony's document) grants. The same terms again change nothing, or begin again what
 * was refused; other terms are taken as long as nothing was stored to be signed for the earlier ones.
 * @throws CountersignError `not-found`, `state-conflict`
 */
export async function requestDelegation(
  tx: Tx,
  child: string,
  terms: GrantTerms,
  signer: "ceremony" | "site",
): Promise<void> {
  const { rows } = await tx.query<{ state: DelegationState; same: boolean; intended: boolean }>(
    `SELECT state, terms = $2::jsonb AND signer = $3 AS same,
       EXISTS (SELECT 1 FROM ca_intent WHERE id = 'delegation/' || $1) AS intended
     FROM delegation WHERE child = $1 FOR UPDATE`,
    [child, JSON.stringify(terms), signer],
  );
  const row = rows[0];
  if (!row) notFound(child);
  if (row.same && row.state !== "refused") return forgetRefusal(tx, child);
  if (row.state === "issued" || row.state === "accepted" || (row.intended && !row.same)) {
    throw new CountersignError("state-conflict", `${child} has been granted other terms already`);
  }
  await tx.query(
    `UPDATE delegation SET state = 'requested', terms = $2, signer = $3, error_code = NULL, error_message = NULL
     WHERE child = $1`,
    [child, JSON.stringify(terms), signer],
  );
}

/**
 * Begins the grant's next revision: a new certificate for the same key. One that is under way, or was refused, is the one
 * that is asked for.
 * @param notAfter until when the grant is to last; as before when left out
 * @throws CountersignError `not-found`, `state-conflict` when there is nothing to renew here
 */
export async function requestRenewal(
  tx: Tx,
  child: string,
  notAfter: string | undefined,
  signer: "ceremony" | "site" = "site",
): Promise<void> {
  const row = await lockDelegation(tx, child);
  await assertStanding(tx, row);
  const again = row.revision > 1 && row.state !== "accepted";
  if (row.terms === null || row.signer !== signer || (row.state !== "accepted" && !again)) {
    throw new CountersignError(
      "state-conflict",
      `there is no accepted grant to ${child} that ${signer === "site" ? "this site's own CA" : "the root"} signed: nothing to renew`,
    );
  }
  const terms = { ...row.terms, notAfter: notAfter ?? row.terms.notAfter };
  if (again && row.state !== "refused") {
    if (terms.notAfter === row.terms.notAfter) return forgetRefusal(tx, child);
    throw new CountersignError("state-conflict", `${child} is being renewed until ${row.terms.notAfter} already`);
  }
  if (again) return askAgain(tx, child);
  await beginRevision(tx, child, terms);
}

/** A child's request for a certificate for another key than its last one. */
export interface RotationRequest {
  /** the last key's own request */
  readonly proof: Uint8Array;
  readonly csr: Uint8Array;
  readonly csrSha256: string;
  readonly nonceSha256: string;
}

/** Its last word on the recorded grant is no, and nobody has asked it again since. */
export function isRefusedByChild({ state, refusedBy, errorCode }: Delegation): boolean {
  return state === "issued" && refusedBy !== null && errorCode !== null;
}

/** Begins the grant's next revision under unchanged terms, for the key of this request. */
export async function beginRotation(tx: Tx, child: string, request: RotationRequest): Promise<void> {
  const row = await lockDelegation(tx, child);
  const { terms } = row;
  if ((row.state !== "accepted" && !isRefusedByChild(row)) || terms === null) {
    throw new CountersignError("state-conflict", `the grant of ${child} is just being made: ask again later`);
  }
  await beginRevision(tx, child, terms);
  await tx.query(
    "UPDATE delegation SET csr = $2, csr_sha256 = $3, nonce_sha256 = $4, rotation_proof = $5 WHERE child = $1",
    [child, request.csr, request.csrSha256, request.nonceSha256, request.proof],
  );
}

/** A revision that was refused is asked for again, as it was. */
export async function askAgain(tx: Tx, child: string): Promise<void> {
  const sql = `UPDATE delegation SET state = 'requested', error_code = NULL, error_message = NULL WHERE child = $1`;
  await tx.query(sql, [child]);
}

/** The last one's certificate stays known; what follows is of the next one. */
async function beginRevision(tx: Tx, child: string, terms: GrantTerms): Promise<void> {
  await tx.query(
    `INSERT INTO delegation_superseded (child, revision, leaf_hash, certificate)
     SELECT child, revision, act_leaf_hash, certificate FROM delegation WHERE child = $1`,
    [child],
  );
  await tx.query(
    `UPDATE delegation SET state = 'requested', revision = revision + 1, terms = $2,
       superseded_leaf_hash = act_leaf_hash, superseded_certificate = certificate, certificate = NULL,
       act_origin = NULL, act_leaf_hash = NULL, act_entry = NULL, acceptance_leaf_hash = NULL, acceptance_entry = NULL,
       refused_by = NULL, error_code = NULL, error_message = NULL
     WHERE child = $1`,
    [child, JSON.stringify(terms)],
  );
}

/**
 * Nobody is given anew what was taken from him: none of the child's certificates, of whatever revision, is revoked or
 * held. An order of that waits for the lock that the caller has of the row, and finds what was recorded under it.
 * @throws CountersignError `state-conflict`
 */
export async function assertStanding(tx: Tx, { child, actLeafHash }: Delegation): Promise<void> {
  const { rowCount } = await tx.query(
    `SELECT 1 FROM (
       SELECT DISTINCT ON (certificate_leaf) effect FROM revocation
       WHERE error_code IS NULL AND certificate_leaf IN (
         SELECT leaf_hash FROM delegation_superseded WHERE child = $1 UNION SELECT $2)
       ORDER BY certificate_leaf, step DESC) last
     WHERE effect <> 'lift' LIMIT 1`,
    [child, actLeafHash],
  );
  if (rowCount === 0) return;
  throw new CountersignError("state-conflict", `the CA certificate of ${child} is revoked or held: it isn't renewed`);
}

/** A child's earlier certificates with the acts that hold them, the first one first. */
export async function supersededCertificates(
  q: Queryable,
  child: string,
): Promise<{ leafHash: string; certificate: Uint8Array }[]> {
  const sql = `SELECT leaf_hash AS "leafHash", certificate FROM delegation_superseded WHERE child = $1 ORDER BY revision`;
  return (await q.query<{ leafHash: string; certificate: Uint8Array }>(sql, [child])).rows;
}

/** The first certificate stays; gives back the one that is kept. */
export async function storeChildCertificate(tx: Tx, child: string, certificate: Uint8Array): Promise<Uint8Array> {
  const { rows } = await tx.query<{ certificate: Uint8Array }>(
    "UPDATE delegation SET certificate = COALESCE(certificate, $2) WHERE child = $1 RETURNING certificate",
    [child, certificate],
  );
  if (!rows[0]) throw new CountersignError("not-found", `${child} hasn't joined this site`);
  return rows[0].certificate;
}

export async function storeDelegationAct(
  q: Queryable,
  child: string,
  act: { origin: string; leafHash: string; entry: Uint8Array },
): Promise<void> {
  await q.query(
    `UPDATE delegation SET act_origin = $2, act_leaf_hash = $3, act_entry = $4,
       state = CASE WHEN state = 'accepted' THEN state ELSE 'issued' END
     WHERE child = $1`,
    [child, act.origin, act.leafHash, act.entry],
  );
}

export async function storeAcceptance(
  q: Queryable,
  child: string,
  act: { leafHash: string; entry: Uint8Array },
): Promise<void> {
  await q.query(
    `UPDATE delegation SET state = 'accepted', acceptance_leaf_hash = $2, acceptance_entry = $3,
       error_code = NULL, error_message = NULL
     WHERE child = $1`,
    [child, act.leafHash, act.entry],
  );
}

export async function refuseDelegation(
  q: Queryable,
  child: string,
  refusal: { code: string; message: string },
): Promise<void> {
  await q.query(
    `UPDATE delegation SET state = 'refused', error_code = $2, error_message = $3
     WHERE child = $1 AND state <> 'accepted'`,
    [child, refusal.code, refusal.message.slice(0, 1000)],
  );
}

/**
 * The child doesn't take the grant: it stands as issued, and is sent again when somebody asks for it again. False when it
 * isn't this one that is waited for.
 */
export async function noteRefusedGrant(
  q: Queryable,
  child: string,
  refused: { leafHash: string; message: string; refusal: { code: string; message: string } },
): Promise<boolean> {
  const { rowCount } = await q.query(
    `UPDATE delegation SET refused_by = $3, error_code = $4, error_message = $5
     WHERE child = $1 AND act_leaf_hash = $2 AND state = 'issued'`,
    [child, refused.leafHash, refused.message, refused.refusal.code, refused.refusal.message],
  );
  return rowCount === 1;
}

/** It is asked again: what the child said to the last time is no answer to this one. */
async function forgetRefusal(tx: Tx, child: string): Promise<void> {
  const sql = "UPDATE delegation SET error_code = NULL, error_message = NULL WHERE child = $1 AND state = 'issued'";
  await tx.query(sql, [child]);
}

function notFound(child: string): never {
  throw new CountersignError("not-found", `${child} hasn't joined this site: invite it first`);
}
