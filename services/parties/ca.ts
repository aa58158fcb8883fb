import { randomBytes } from "node:crypto";
import type { CaKey } from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import { buildCrl, lintCrl, parseCrl, type CrlEntryParams } from "../../lib/pki/crl.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { issuerFromCertificate, type IssuerInfo } from "../../lib/pki/issuer.ts";
import { lintTbs } from "../../lib/pki/lint.ts";
import { buildName, parseName, sameName, type Name, type NameParts } from "../../lib/pki/name.ts";
import { OID } from "../../lib/pki/oids.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";
import { wholeSeconds } from "../../lib/pki/time.ts";
import type { GrantTerms } from "../../lib/records/grant.ts";
import type { Db, Queryable } from "../../store/db.ts";
import { findIntent, storeCrl, storeIntent, storeResult, type CaIntent } from "../../store/authority.ts";

/** What a CA signs besides devices: its children's CAs, CRLs. First the bytes are stored, then the key is asked. */

/** The CA's CRL is served under the first 16 digits of its key id. */
export const crlName = (caKeyId: string): string => caKeyId.slice(0, 16);
export const crlUrl = (publicUrl: string, caKeyId: string): string =>
  `${publicUrl.replace(/\/$/, "")}/crl/${crlName(caKeyId)}.crl`;

export interface ChildCaRequest {
  readonly child: string;
  /** DER, already checked (join.ts) */
  readonly csr: Uint8Array;
  readonly terms: GrantTerms;
  /** the issuing CA's certificate, and everything above it */
  readonly issuer: Certificate;
  readonly upstream: readonly Certificate[];
  readonly publicUrl: string;
  readonly notBefore: Date;
}

/**
 * The bytes of a child's CA certificate: its key and the CN and O it asked for, everything else by profile and terms.
 * Valid as long as its issuer: what it may be used for ends with the grant's window.
 * @throws CountersignError `grant-exceeded` when it asks for the name of a CA above it
 */
export function childCaTbs(request: ChildCaRequest): Uint8Array {
  const { issuer, terms } = request;
  const csr = parseCsr(request.csr);
  const subject = requestedSubject(csr.subject);
  const name = parseName(buildName(subject));
  if ([issuer, ...request.upstream].some((above) => sameName(above.subject, name))) {
    throw new CountersignError("grant-exceeded", `${request.child} asks for the name of a CA above it`);
  }
  const profile = profileNamed(terms.caProfile);
  const issuerInfo = issuerFromCertificate(issuer);
  const constrained = profile.nameConstraints === "required" && subject.organization !== undefined;
  return buildTbs(profile, {
    issuer: issuerInfo,
    serial: newSerial(randomBytes),
    notBefore: wholeSeconds(request.notBefore),
    notAfter: issuer.notAfter,
    subject,
    spki: csr.spki,
    pathLen: terms.pathLen,
    crlUrl: crlUrl(request.publicUrl, keyId(issuer.spki)),
    ...(constrained ? { permittedNames: [buildName({ organization: subject.organization })] } : {}),
  });
}

/** Of the name that a child asks for, what is taken: one O and one CN. */
export function requestedSubject(subject: Name): NameParts {
  const attributes = subject.rdns.flat();
  const one = (type: string): string | undefined => {
    const values = attributes.filter((attribute) => attribute.type === type);
    return values.length === 1 ? values[0]?.text : undefined;
  };
  return { organization: one(OID.organizationName), commonName: one(OID.commonName) };
}

/**
 * Signs a stored intent and keeps the first result, which everyone gets from then on. What it is to become is the
 * caller's to say: whoever writes the database may have put other bytes under this id, which another profile would pass.
 * @throws CountersignError `not-found` (no intent: nothing is signed that wasn't stored before), `profile-violation`,
 *   `unauthorized` (the intent is another CA's, or for something else), and what the token throws
 */
export async function signIntent(
  db: Db,
  id: string,
  key: CaKey,
  issuer: IssuerInfo,
  expected: Pick<CaIntent, "kind" | "profile">,
): Promise<Uint8Array> {
  const intent = await requireIntent(db, id);
  if (intent.kind !== expected.kind || intent.profile !== expected.profile) {
    throw new CountersignError(
      "unauthorized",
      `what is stored as ${id} is a ${intent.kind} of profile ${intent.profile}, not a ${expected.kind} of ${expected.profile}`,
    );
  }
  if (intent.result) return intent.result;
  if (intent.issuerKeyId !== keyId(key.spki) || intent.issuerKeyId !== keyId(issuer.spki)) {
    throw new CountersignError(
      "unauthorized",
      `${id} is to be signed by the CA key ${intent.issuerKeyId}, not by this one`,
    );
  }
  const signed =
    expected.kind === "crl"
      ? await key.signCrl(lintCrl(intent.tbs, issuer))
      : await key.signCertificate(lintTbs(intent.tbs, profileNamed(expected.profile), issuer));
  return storeResult(db, id, signed);
}

export async function requireIntent(q: Queryable, id: string): Promise<CaIntent> {
  const intent = await findIntent(q, id);
  if (!intent) throw new CountersignError("not-found", `nothing was stored to be signed as ${id}`);
  return intent;
}

/**
 * A CRL's number, above every one that was published before it (RFC 5280, 5.2.3), also by a database that was since set
 * back to a backup and has forgotten the last ones: it is at least the time in seconds, and CRLs come more slowly than that.
 * @param held of the newest CRL in the database
 */
export function nextCrlNumber(held: number | undefined, now: Date): number {
  return Math.max((held ?? 0) + 1, Math.floor(now.getTime() / 1000));
}

/**
 * The CA's next CRL: intent, signature, storage. The same number again gives the same CRL, whatever it is to list.
 * @param days how long it holds
 */
export async function issueCrl(
  db: Db,
  key: CaKey,
  ca: Certificate,
  crl: { number: number; days: number; now: Date; revoked: readonly CrlEntryParams[] },
): Promise<Uint8Array> {
  const issuer = issuerFromCertificate(ca);
  const caKeyId = keyId(ca.spki);
  const id = `crl/${caKeyId}/${crl.number}`;
  const thisUpdate = wholeSeconds(crl.now);
  const wanted = thisUpdate.getTime() + crl.days * 86_400_000;
  const nextUpdate = new Date(Math.min(wanted, ca.notAfter.getTime()));
  await storeIntent(db, {
    id,
    kind: "crl",
    profile: "crl",
    issuerKeyId: caKeyId,
    subjectKeyId: null,
    request: { number: crl.number, days: crl.days },
    tbs: buildCrl({ issuer, number: BigInt(crl.number), thisUpdate, nextUpdate, revoked: crl.revoked }),
  });
  const der = await signIntent(db, id, key, issuer, { kind: "crl", profile: "crl" });
  const parsed = parseCrl(der);
  await storeCrl(db, {
    keyId: caKeyId,
    number: crl.number,
    der,
    thisUpdate: parsed.thisUpdate,
    nextUpdate: parsed.nextUpdate,
  });
  return der;
}
