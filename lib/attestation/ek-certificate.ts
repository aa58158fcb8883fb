import { isCountersignError, CountersignError } from "../domain/errors.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { parseCertificate, type Certificate } from "../pki/certificate.ts";
import { validatePath } from "../pki/path.ts";
import { keyAlgorithmOf } from "../pki/spki.ts";

/** TCG OIDs: EK Credential Profile for TPM Family 2.0, sections 3.2.9 and 3.2.16. */
const TCG = {
  kpEkCertificate: "2.23.133.8.1",
  tpmManufacturer: "2.23.133.2.1",
  tpmModel: "2.23.133.2.2",
  tpmVersion: "2.23.133.2.3",
} as const;

/** What a vendor says of a TPM in the certificate of its endorsement key. */
export interface EndorsedTpm {
  readonly certificate: Certificate;
  /** the vendor's root that the path ends at */
  readonly root: Certificate;
  /** such as `id:49465800` */
  readonly manufacturer: string;
  readonly model: string;
  readonly version: string;
}

/**
 * The certificate of an endorsement key, by RFC 5280 path validation to one of the vendor's roots and by TCG's profile.
 * Every certificate given must have its part in the path. Says nothing about revocation.
 * @param chain DER, the endorsement key's certificate first, without the root
 * @throws CountersignError `attestation-ek-untrusted`
 */
export async function validateEkCertificate(
  chain: readonly Uint8Array[],
  roots: readonly Uint8Array[],
  at: Date,
  verify: VerifySignature,
): Promise<EndorsedTpm> {
  const result = await validatePath({ chain, roots, at, verify });
  if (!result.ok) throw untrusted(`it has no path to the vendor's roots: ${result.message} [${result.reason}]`);
  if (result.path.length !== chain.length + 1)
    throw untrusted("certificates came with it that its path has no use for");
  const certificate = result.path[0]!;
  const { eku, basicConstraints } = certificate;
  if (basicConstraints?.ca === true) throw untrusted("it is a CA's");
  if (eku?.includes(TCG.kpEkCertificate) !== true)
    throw untrusted("it isn't for an endorsement key (tcg-kp-EKCertificate)");
  checkUse(certificate);
  return { certificate, root: result.path.at(-1)!, ...tpmOf(certificate) };
}

/** An endorsement key decrypts, and signs nothing. */
function checkUse({ keyUsage, spki }: Certificate): void {
  const needed = keyAlgorithmOf(spki).startsWith("rsa-") ? "keyEncipherment" : "keyAgreement";
  if (keyUsage?.includes(needed) !== true) throw untrusted(`its key usage isn't ${needed}`);
}

function tpmOf({ san }: Certificate): Pick<EndorsedTpm, "manufacturer" | "model" | "version"> {
  const attributes = (san ?? []).flatMap((name) => (name.kind === "directory" ? name.value.rdns.flat() : []));
  const only = (type: string, what: string): string => {
    const found = attributes.filter((attribute) => attribute.type === type);
    const text = found[0]?.text;
    if (found.length === 1 && text !== undefined && /^[ -~]{1,128}$/.test(text)) return text;
    throw untrusted(`its alternative name doesn't say the TPM's ${what} once`);
  };
  return {
    manufacturer: only(TCG.tpmManufacturer, "manufacturer"),
    model: only(TCG.tpmModel, "model"),
    version: only(TCG.tpmVersion, "version"),
  };
}

/** The key of an endorsement key's certificate that nobody has validated yet. @throws CountersignError `attestation-malformed` */
export function ekSpkiOf(der: Uint8Array): Uint8Array {
  try {
    return parseCertificate(der).spki;
  } catch (cause) {
    if (!isCountersignError(cause)) throw cause;
    throw new CountersignError("attestation-malformed", "the endorsement key's certificate can't be read", { cause });
  }
}

function untrusted(message: string): CountersignError {
  return new CountersignError("attestation-ek-untrusted", `the endorsement key's certificate is refused: ${message}`);
}
