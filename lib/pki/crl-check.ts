import { equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { algorithmFor, isSignedBy } from "./algorithms.ts";
import type { Certificate } from "./certificate.ts";
import type { Crl } from "./crl-parse.ts";
import { sameName } from "./name.ts";
import { keyAlgorithmOf } from "./spki.ts";

/**
 * Whether a CRL is this CA's and may be read for revocation: name, key identifier, cRLSign, a supported form, and the
 * signature (RFC 5280 section 6.3.3 a to g, for complete direct CRLs). Whether it is current is the caller's question.
 * @throws CountersignError `crl-invalid`, with `details.rule`
 */
export async function checkCrl(crl: Crl, issuer: Certificate, verify: VerifySignature): Promise<void> {
  if (!sameName(crl.issuer, issuer.subject)) throw invalid("crl-issuer", "another CA issued it");
  if (!identifies(crl, issuer)) throw invalid("crl-other-key", "it names another key of its issuer");
  if (issuer.keyUsage?.includes("cRLSign") !== true) throw invalid("crl-issuer", "its issuer may not sign CRLs");
  if (crl.unsupported !== undefined) throw invalid("crl-unsupported", crl.unsupported);
  const { signatureScheme } = crl;
  if (signatureScheme === undefined || algorithmFor(signatureScheme, keyAlgorithmOf(issuer.spki)) === undefined) {
    throw invalid("crl-unsupported", "its signature algorithm isn't one of ours, or not its issuer key's");
  }
  if (!(await isSignedBy(crl, issuer.spki, verify))) {
    throw invalid("crl-signature-invalid", "its signature is not its issuer's");
  }
}

/** Whether the CRL's authority key identifier, if it has one, is this issuer's. */
function identifies(crl: Crl, issuer: Certificate): boolean {
  const named = crl.aki?.keyIdentifier;
  return named === undefined || issuer.ski === undefined || equalBytes(named, issuer.ski);
}

function invalid(rule: string, message: string): CountersignError {
  return new CountersignError("crl-invalid", `the CRL is refused: ${message}`, { details: { rule } });
}
