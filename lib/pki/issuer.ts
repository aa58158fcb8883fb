import type { SignatureAlgorithm } from "../domain/signing.ts";
import { CountersignError } from "../domain/errors.ts";
import { signatureAlgorithmForKey } from "./algorithms.ts";
import type { Certificate } from "./certificate.ts";
import { buildName, type NameParts } from "./name.ts";
import type { Profile } from "./profile-schema.ts";
import { keyAlgorithmOf, subjectKeyIdentifier } from "./spki.ts";
import { NO_EXPIRY, wholeSeconds } from "./time.ts";

/** What a CA lends to the certificates and CRLs it signs. */
export interface IssuerInfo {
  /** DER Name: the CA's subject */
  readonly name: Uint8Array;
  /** Subject key identifier of the CA's certificate */
  readonly ski: Uint8Array;
  readonly spki: Uint8Array;
  /** What the CA's key signs with */
  readonly algorithm: SignatureAlgorithm;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** Intermediates allowed below this CA (RFC 5280 section 4.2.1.9); undefined: no limit */
  readonly pathLen: number | undefined;
}

/**
 * @throws CountersignError `certificate-invalid` when it is no CA's certificate; and those of readSpki
 */
export function issuerFromCertificate(ca: Certificate): IssuerInfo {
  if (ca.basicConstraints?.ca !== true || ca.keyUsage?.includes("keyCertSign") !== true || ca.ski === undefined) {
    throw new CountersignError(
      "certificate-invalid",
      "this certificate can't issue: a CA's has cA, keyCertSign and a subject key identifier",
      { details: { rule: "not-a-ca" } },
    );
  }
  return {
    name: ca.subject.der,
    ski: ca.ski,
    spki: ca.spki,
    algorithm: signatureAlgorithmForKey(keyAlgorithmOf(ca.spki)),
    notBefore: ca.notBefore,
    notAfter: ca.notAfter,
    pathLen: ca.basicConstraints.pathLen,
  };
}

/** The issuer of a self-signed certificate: its own subject. */
export function selfIssuer(subject: {
  readonly name: NameParts;
  readonly spki: Uint8Array;
  readonly notBefore: Date;
  readonly notAfter: Date;
}): IssuerInfo {
  return {
    name: buildName(subject.name),
    ski: subjectKeyIdentifier(subject.spki),
    spki: subject.spki,
    algorithm: signatureAlgorithmForKey(keyAlgorithmOf(subject.spki)),
    notBefore: subject.notBefore,
    notAfter: subject.notAfter,
    pathLen: undefined,
  };
}

const DAY = 86_400_000;
const SECOND = 1000;

/**
 * The validity to issue with, from `now` on for `days` (default: the profile's), nested in the issuer's. Asking beyond
 * the profile's maximum gives the maximum. A profile that allows no expiry gets it with `days: "no-expiry"`, under an
 * issuer that has none.
 * @throws CountersignError `profile-violation` when the issuer isn't valid now or the profile allows no endless validity
 */
export function validityFor(
  profile: Profile,
  now: Date,
  issuer: Pick<IssuerInfo, "notBefore" | "notAfter"> | undefined,
  days: number | "no-expiry" = profile.validity.defaultDays,
): { notBefore: Date; notAfter: Date } {
  const notBefore = wholeSeconds(now);
  if (issuer !== undefined && (notBefore < issuer.notBefore || notBefore >= issuer.notAfter)) {
    throw new CountersignError("profile-violation", "the issuer's own certificate is not valid at this time");
  }
  if (days === "no-expiry") {
    if (!profile.validity.noExpiry || (issuer !== undefined && issuer.notAfter.getTime() !== NO_EXPIRY.getTime())) {
      throw new CountersignError("profile-violation", `${profile.name} can't be without expiry under this issuer`);
    }
    return { notBefore, notAfter: NO_EXPIRY };
  }
  // notAfter is inclusive (RFC 5280 section 4.1.2.5)
  const wanted = notBefore.getTime() + Math.min(days, profile.validity.maxDays) * DAY - SECOND;
  return { notBefore, notAfter: new Date(Math.min(wanted, issuer?.notAfter.getTime() ?? wanted)) };
}
