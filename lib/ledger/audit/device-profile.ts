import { isCountersignError } from "../../domain/errors.ts";
import type { Certificate } from "../../pki/certificate.ts";
import { issuerFromCertificate } from "../../pki/issuer.ts";
import { violations } from "../../pki/lint-rules.ts";
import { profileDigest, profileNamed } from "../../pki/profiles.ts";
import type { ProfileRef } from "../../records/primitives.ts";

/**
 * Why the certificate is not the device certificate that its record says it is, or undefined. A valid path alone says
 * little: a CA's certificate, or one for another use, ends one as well as a device's.
 */
export function deviceProfileFault(certificate: Certificate, ref: ProfileRef, issuer: Certificate): string | undefined {
  try {
    const profile = profileNamed(ref.name);
    if (profileDigest(ref.name) !== ref.sha256) return `the profile ${ref.name} is not the one known by this name`;
    if (profile.subject.commonNameForm !== "device-id" || profile.basicConstraints.ca) {
      return `${ref.name} is no profile of devices`;
    }
    const [broken] = violations({ tbs: certificate, profile, issuer: issuerFromCertificate(issuer) });
    return broken && `it isn't a certificate of profile ${ref.name}: ${broken.message}`;
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    return error.message;
  }
}
