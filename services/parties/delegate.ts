import { equalBytes, toBase64 } from "../../lib/domain/bytes.ts";
import type { CaKey } from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { parseCertificate, parseTbsCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { issuerFromCertificate } from "../../lib/pki/issuer.ts";
import { buildName } from "../../lib/pki/name.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { Grant, GrantTerms } from "../../lib/records/grant.ts";
import type { ActRef } from "../../lib/records/primitives.ts";
import { inTransaction, type Db, type Tx } from "../../store/db.ts";
import { storeIntent } from "../../store/authority.ts";
import { assertStanding, lockDelegation, storeChildCertificate, type Delegation } from "../../store/delegations.ts";
import { debitQuota, rotationUnderWay, type CurrentGrant } from "../../store/grants.ts";
import { childCaTbs, requestedSubject, requireIntent, signIntent } from "./ca.ts";
import { checkTerms, profileRefs } from "./terms.ts";

/** The grantor's side of a delegation, the same for the root in its ceremony and for an online CA. */

export function delegationIntent({ child, revision }: Pick<Delegation, "child" | "revision">): string {
  return revision === 1 ? `delegation/${child}` : `delegation/${child}/${revision}`;
}

export interface Issuer {
  readonly signer: "ceremony" | "site";
  readonly certificate: Certificate;
  /** above the issuer, its parent first, the root last; empty for the root */
  readonly upstream: readonly Certificate[];
  readonly grant: CurrentGrant | undefined;
  readonly publicUrl: string;
}

/** What was asked for by an operator or a reviewed document: a delegation that nobody asked for is never signed. */
function assertRequested(row: Delegation, signer: Issuer["signer"]): GrantTerms {
  if (row.terms === null || row.signer !== signer || row.state === "refused") {
    throw new CountersignError("unauthorized", `no delegation to ${row.child} was asked for here`);
  }
  return row.terms;
}

/**
 * Checks the terms against the own grant, and stores the bytes to sign. The quota goes down in the same transaction,
 * once, however often this is called.
 * @throws CountersignError `unauthorized`, `state-conflict`, `quota-exceeded`, `rotation-under-way` and those of checkTerms
 */
export async function prepareChild(db: Db, child: string, issuer: Issuer, now: Date): Promise<void> {
  await inTransaction(db, async (tx) => {
    const row = await lockDelegation(tx, child);
    const terms = assertRequested(row, issuer.signer);
    if (row.certificate) return;
    await assertStanding(tx, row);
    checkTerms(terms, issuer.grant?.fields, now);
    const csr = parseCsr(row.csr);
    const fresh = await storeIntent(tx, {
      id: delegationIntent(row),
      kind: "intermediate",
      profile: terms.caProfile,
      issuerKeyId: keyId(issuer.certificate.spki),
      subjectKeyId: keyId(csr.spki),
      request: intended(row, terms),
      tbs: childCaTbs({
        child,
        csr: row.csr,
        terms,
        issuer: issuer.certificate,
        upstream: issuer.upstream,
        publicUrl: issuer.publicUrl,
        notBefore: beginOf(row, now),
      }),
    });
    if (!fresh || issuer.grant === undefined) return;
    // A later revision grants no device that wasn't granted before.
    const { certificate } = await debitQuota(tx, row.revision === 1 ? terms.quota : 0);
    if (!equalBytes(parseCertificate(certificate).spki, issuer.certificate.spki)) throw rotationUnderWay();
  });
}

/**
 * Signs the stored bytes, if they are what is granted now, and keeps the first certificate.
 * @throws CountersignError `unauthorized`, `state-conflict` (revoked or held meanwhile), and those of signIntent
 */
export async function signChild(db: Db, child: string, issuer: Issuer, key: CaKey): Promise<Uint8Array> {
  const row = await inTransaction(db, (tx) => lockStanding(tx, child));
  const terms = assertRequested(row, issuer.signer);
  const intent = await requireIntent(db, delegationIntent(row));
  const tbs = parseTbsCertificate(intent.tbs);
  const csr = parseCsr(row.csr);
  const request = canonicalJson(intended(row, terms));
  if (
    !equalBytes(tbs.spki, csr.spki) ||
    !equalBytes(tbs.subject.der, buildName(requestedSubject(csr.subject))) ||
    tbs.basicConstraints?.pathLen !== terms.pathLen ||
    !equalBytes(canonicalJson(intent.request), request)
  ) {
    throw new CountersignError("unauthorized", `the bytes stored for ${child} aren't what was granted to it`);
  }
  const expected = { kind: "intermediate", profile: terms.caProfile } as const;
  const certificate = await signIntent(db, intent.id, key, issuerFromCertificate(issuer.certificate), expected);
  return inTransaction(db, async (tx) => {
    await lockStanding(tx, child);
    return storeChildCertificate(tx, child, certificate);
  });
}

/** The delegation, locked, if nothing was taken back from the child. @throws CountersignError `not-found`, `state-conflict` */
export async function lockStanding(tx: Tx, child: string): Promise<Delegation> {
  const row = await lockDelegation(tx, child);
  await assertStanding(tx, row);
  return row;
}

function intended({ child, csrSha256, revision }: Delegation, terms: GrantTerms) {
  return { child, csrSha256, terms, ...(revision === 1 ? {} : { revision }) };
}

/** A renewed certificate begins where the last one did: what was signed under that one nests in this one too. */
function beginOf({ supersededCertificate }: Delegation, now: Date): Date {
  return supersededCertificate === null ? now : parseCertificate(supersededCertificate).notBefore;
}

/** The grant's fields: what the `delegation` act says. */
export function grantFields(
  row: Delegation,
  { origin, issuerSpki, parentGrant }: { origin: string; issuerSpki: Uint8Array; parentGrant: ActRef | undefined },
): Grant {
  if (row.terms === null || row.certificate === null) {
    throw new CountersignError("state-conflict", `the certificate of ${row.child} isn't signed yet`);
  }
  const { terms } = row;
  const ca = toBase64(parseCertificate(row.certificate).spki);
  return {
    id: `${row.child}-1`,
    revision: row.revision,
    ...(row.supersededLeafHash === null ? {} : { supersedes: { origin, leafHash: row.supersededLeafHash } }),
    ...(parentGrant === undefined ? {} : { parentGrant }),
    issuer: toBase64(issuerSpki),
    child: row.child,
    keyset: row.keyset,
    ...(ca === row.keyset.ca ? {} : { ca }),
    certificate: toBase64(row.certificate),
    csrSha256: row.csrSha256,
    nonceSha256: row.nonceSha256,
    idPrefixes: terms.idPrefixes,
    profiles: profileRefs(terms.profiles),
    quota: terms.quota,
    notBefore: terms.notBefore,
    notAfter: terms.notAfter,
    pathLen: terms.pathLen,
    depth: terms.depth,
    mayBuild: terms.mayBuild,
    approvals: { threshold: 0 },
  };
}

/** The issuer of an online CA: its own certificate and grant. */
export function onlineIssuer(grant: CurrentGrant, publicUrl: string): Issuer {
  return {
    signer: "site",
    certificate: parseCertificate(grant.certificate),
    upstream: grant.upstream.map(parseCertificate),
    grant,
    publicUrl,
  };
}
