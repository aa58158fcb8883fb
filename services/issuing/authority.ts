import { utf8 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import type { SubjectAltName } from "../../lib/pki/general-name.ts";
import { issuerFromCertificate, validityFor, type IssuerInfo } from "../../lib/pki/issuer.ts";
import { lintTbs, type LintedTbs } from "../../lib/pki/lint.ts";
import { profileDigest, profileNamed, type Profile } from "../../lib/pki/profiles.ts";
import { newSerial, serialHex } from "../../lib/pki/serial.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";
import type { CertificateSettings } from "../../lib/records/certificate-settings.ts";
import type { Grant } from "../../lib/records/grant.ts";
import type { Queryable } from "../../store/db.ts";
import { findGrantOf, type CurrentGrant } from "../../store/grants.ts";
import type { Lot } from "../../store/lots.ts";
import { randomFillSync } from "node:crypto";

/** This site's authority to sign devices of one profile: its CA certificate under its current grant. */
export interface Authority {
  readonly grant: CurrentGrant;
  readonly issuer: IssuerInfo;
  readonly issuerKeyId: string;
  readonly profile: Profile;
  readonly crlUrl?: string;
  /** the lot's choices within the profile */
  readonly settings?: CertificateSettings;
}

/** @throws CountersignError `profile-invalid`, `certificate-invalid` */
export function authorityFor(
  grant: CurrentGrant,
  profileName: string,
  crlUrl?: (keyId: string) => string,
  settings?: CertificateSettings,
): Authority {
  const issuer = issuerFromCertificate(parseCertificate(grant.certificate));
  const issuerKeyId = keyId(issuer.spki);
  return {
    grant,
    issuer,
    issuerKeyId,
    profile: profileNamed(profileName),
    ...(crlUrl === undefined ? {} : { crlUrl: crlUrl(issuerKeyId) }),
    ...(settings === undefined ? {} : { settings }),
  };
}

/**
 * The authority under which something was intended: of the CA key in force, or of an earlier one, which goes on signing
 * what was intended under it and nothing else.
 * @throws CountersignError `grant-mismatch` when this site never had a grant for this key, and those of authorityFor
 */
export async function authorityOfKey(
  q: Queryable,
  issuerKeyId: string,
  ...[profileName, crlUrl, settings]: Rest<Parameters<typeof authorityFor>>
): Promise<Authority> {
  const grant = await findGrantOf(q, (certificate) => keyId(parseCertificate(certificate).spki) === issuerKeyId);
  if (grant !== undefined) return authorityFor(grant, profileName, crlUrl, settings);
  throw new CountersignError("grant-mismatch", `its CA key ${issuerKeyId} is no longer this site's`);
}
type Rest<T> = T extends [unknown, ...infer R] ? R : never;

/**
 * Why nothing new may be certified for the lot at this time, or undefined.
 * @throws nothing: a refusal is the answer
 */
export function authorityGap(grant: Grant, lot: Lot, party: string, now: Date): CountersignError | undefined {
  const at = now.toISOString();
  if (lot.issuer !== party) {
    return new CountersignError("custody-conflict", `lot ${lot.id} is certified by ${lot.issuer}, not here`);
  }
  if (at < grant.notBefore) {
    return new CountersignError("grant-not-yet-valid", `the grant ${grant.id} begins only at ${grant.notBefore}`);
  }
  if (at > grant.notAfter) {
    return new CountersignError("grant-expired", `the grant ${grant.id} ended at ${grant.notAfter}: ask for a new one`);
  }
  const { name, sha256 } = lot.profile;
  if (sha256 !== profileDigest(name)) {
    return new CountersignError("profile-not-granted", `the lot's profile ${name} is not the one this program has`);
  }
  if (!grant.profiles.some((profile) => profile.name === name && profile.sha256 === sha256)) {
    return new CountersignError("profile-not-granted", `the grant ${grant.id} doesn't allow the profile ${name}`);
  }
  return undefined;
}

// One call to the kernel for many serials.
const pool = new Uint8Array(4096);
let used = pool.length;
function randomBytes(length: number): Uint8Array {
  if (used + length > pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  used += length;
  return pool.subarray(used - length, used);
}

export interface PlannedCertificate {
  /** hex */
  readonly serial: string;
  readonly linted: LintedTbs;
}

/**
 * Fixes everything random or dated about one device's certificate.
 * @throws CountersignError `profile-violation`, `input-invalid`
 */
export function planCertificate(
  authority: Authority,
  deviceId: string,
  spki: Uint8Array,
  now: Date,
): PlannedCertificate {
  const { profile, issuer, crlUrl, settings } = authority;
  const serial = newSerial(randomBytes);
  const tbs = buildTbs(profile, {
    issuer,
    serial,
    ...validityFor(profile, now, issuer, settings?.days),
    subject: { commonName: deviceId },
    spki,
    crlUrl,
    ...(settings?.hardwareType === undefined ? {} : { san: [hardwareModule(settings.hardwareType, deviceId)] }),
  });
  return { serial: serialHex(serial), linted: lintTbs(tbs, profile, issuer) };
}

/** The device's number among its type's: its ID, which no other device of this party's has. */
function hardwareModule(hwType: string, deviceId: string): SubjectAltName {
  return { kind: "hardware-module", value: { hwType, hwSerialNum: utf8(deviceId) } };
}

/** Stored bytes on their way to the HSM again: they pass the linter each time. @throws CountersignError `profile-violation` */
export function relint(authority: Authority, tbs: Uint8Array): LintedTbs {
  return lintTbs(tbs, authority.profile, authority.issuer);
}
