import { generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto";
import type { KeyAlgorithm, SignatureAlgorithm } from "../../lib/domain/signing.ts";
import { signatureAlgorithmForKey } from "../../lib/pki/algorithms.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { assembleCrl, buildCrl, lintCrl, type CrlParams } from "../../lib/pki/crl.ts";
import { assembleCsr, csrInfo, type CsrInfoParams } from "../../lib/pki/csr.ts";
import { issuerFromCertificate, selfIssuer, validityFor, type IssuerInfo } from "../../lib/pki/issuer.ts";
import { assembleCertificate, lintTbs } from "../../lib/pki/lint.ts";
import type { NameParts } from "../../lib/pki/name.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { profileNamed, type Profile, type ProfileName } from "../../lib/pki/profiles.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { buildTbs, type TbsParams } from "../../lib/pki/tbs.ts";

/** For tests: certificates by the product's own profiles, signed with throwaway keys outside any token. */

export interface ThrowawayKey {
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
  readonly privateKey: KeyObject;
  sign(message: Uint8Array): Uint8Array;
}

export function throwawayKey(algorithm: KeyAlgorithm = "ec-p256"): ThrowawayKey {
  const { publicKey, privateKey } = generate(algorithm);
  const signatureAlgorithm = signatureAlgorithmForKey(algorithm);
  return {
    spki: new Uint8Array(publicKey.export({ type: "spki", format: "der" })),
    algorithm: signatureAlgorithm,
    privateKey,
    sign: (message) => new Uint8Array(sign(hashOf(signatureAlgorithm), message, privateKey)),
  };
}

function generate(algorithm: KeyAlgorithm) {
  if (algorithm === "ed25519") return generateKeyPairSync("ed25519");
  if (algorithm === "ec-p256") return generateKeyPairSync("ec", { namedCurve: "P-256" });
  if (algorithm === "ec-p384") return generateKeyPairSync("ec", { namedCurve: "P-384" });
  return generateKeyPairSync("rsa", { modulusLength: Number(algorithm.slice(4)) });
}

function hashOf(algorithm: SignatureAlgorithm): string | undefined {
  return algorithm === "ed25519" ? undefined : algorithm.slice(-6);
}

export interface ThrowawayCa {
  readonly key: ThrowawayKey;
  readonly certificate: Certificate;
}

type Extras = Partial<Omit<TbsParams, "issuer" | "subject" | "spki">> & { at?: Date; days?: number | "no-expiry" };

export function throwawayRoot(name: NameParts, key = throwawayKey(), extras: Extras = {}): ThrowawayCa {
  const profile = profileNamed("root");
  const validity = { ...validityFor(profile, extras.at ?? new Date(), undefined, extras.days), ...given(extras) };
  const issuer = selfIssuer({ name, spki: key.spki, notBefore: validity.notBefore, notAfter: validity.notAfter });
  return { key, certificate: issueUnder(profile, issuer, key, { ...validity, subject: name, spki: key.spki }) };
}

export function issue(
  ca: ThrowawayCa,
  profileName: ProfileName,
  subject: NameParts,
  spki: Uint8Array,
  extras: Extras = {},
): Certificate {
  const profile = profileNamed(profileName);
  const issuer = issuerFromCertificate(ca.certificate);
  const validity = validityFor(profile, extras.at ?? new Date(), issuer, extras.days);
  return issueUnder(profile, issuer, ca.key, { ...validity, ...given(extras), subject, spki });
}

/** Builds, lints and signs; the serial number is made here. */
export function issueUnder(
  profile: Profile,
  issuer: IssuerInfo,
  key: ThrowawayKey,
  params: Omit<TbsParams, "issuer" | "serial">,
): Certificate {
  const tbs = buildTbs(profile, { serial: serial(), ...params, issuer });
  const linted = lintTbs(tbs, profile, issuer);
  return parseCertificate(assembleCertificate(linted, key.sign(linted.bytes)));
}

export function issueCa(
  ca: ThrowawayCa,
  subject: NameParts,
  extras: Extras & { profile?: "intermediate-embedded" | "intermediate-linux"; key?: ThrowawayKey } = {},
): ThrowawayCa {
  const { profile = "intermediate-embedded", key = throwawayKey(), ...rest } = extras;
  return { key, certificate: issue(ca, profile, subject, key.spki, { pathLen: 0, ...rest }) };
}

export function issueCrl(ca: ThrowawayCa, params: Partial<Omit<CrlParams, "issuer">> = {}): Uint8Array {
  const issuer = issuerFromCertificate(ca.certificate);
  const thisUpdate = new Date(Math.floor(Date.now() / 1000) * 1000);
  const nextUpdate = new Date(thisUpdate.getTime() + 7 * 86_400_000);
  const linted = lintCrl(buildCrl({ number: 1n, thisUpdate, nextUpdate, revoked: [], ...params, issuer }), issuer);
  return assembleCrl(linted, ca.key.sign(linted.bytes));
}

export function makeCsr(key: ThrowawayKey, subject: Omit<CsrInfoParams, "spki">): Uint8Array {
  const info = csrInfo({ ...subject, spki: key.spki });
  return assembleCsr(info, key.algorithm, key.sign(info));
}

export function pem(...certificates: readonly (Certificate | Uint8Array)[]): string {
  return certificates.map((one) => pemEncode("CERTIFICATE", one instanceof Uint8Array ? one : one.der)).join("");
}

function serial(): Uint8Array {
  return newSerial((length) => randomBytes(length));
}

function given({ at: _at, days: _days, ...rest }: Extras): Omit<Extras, "at" | "days"> {
  return rest;
}
