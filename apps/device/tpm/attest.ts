import { CountersignError } from "../../../lib/domain/errors.ts";
import type { Credential } from "../../../lib/attestation/index.ts";
import { AK_ATTRIBUTES, EK_PLACES, signingKey } from "./templates.ts";
import { HIERARCHY, type LoadedKey, type Tpm } from "./tpm.ts";

/** What a device's TPM says of itself before it is asked. */
export interface Introduction {
  /** DER, out of the TPM */
  readonly ekCertificate: Uint8Array;
  readonly ekTemplate: Uint8Array;
  /** TPMT_PUBLIC */
  readonly akPublic: Uint8Array;
}

/** The attestation key: a primary one of the endorsement hierarchy, the same whenever it is made. */
const akOf = (tpm: Tpm): Promise<LoadedKey> => tpm.createPrimary(HIERARCHY.endorsement, signingKey(AK_ATTRIBUTES));

/** @throws CountersignError `component-missing` where the TPM holds no certificate of an endorsement key we know */
export async function introduce(tpm: Tpm, places = EK_PLACES): Promise<Introduction> {
  for (const { nv, template } of places) {
    const ekCertificate = await tpm.nvRead(nv);
    if (ekCertificate === undefined) continue;
    const { handle, publicArea } = await akOf(tpm);
    await tpm.flush(handle);
    return { ekCertificate: derIn(ekCertificate), ekTemplate: template, akPublic: publicArea };
  }
  throw new CountersignError(
    "component-missing",
    "the TPM holds no certificate of an RSA 2048, P-256 or P-384 endorsement key",
  );
}

/** Some TPMs pad the NV index behind the certificate. */
function derIn(bytes: Uint8Array): Uint8Array {
  const length = bytes[0] === 0x30 && bytes[1] === 0x82 ? 4 + bytes[2]! * 256 + bytes[3]! : bytes.length;
  return bytes.subarray(0, length);
}

/**
 * Opens the credential, and certifies the device's key with the nonce.
 * @param load loads the device's key, as late as possible: a TPM has few slots
 */
export async function answer(
  tpm: Tpm,
  { ekTemplate }: Introduction,
  challenge: Credential & { readonly nonce: Uint8Array },
  load: () => Promise<{ key: LoadedKey; auth: Uint8Array; parents: readonly Uint8Array[] }>,
) {
  const ak = await akOf(tpm);
  const ek = await tpm.createPrimary(HIERARCHY.endorsement, ekTemplate);
  const secret = await tpm.activateCredential(ak.handle, ek.handle, challenge);
  await tpm.flush(ek.handle);
  const { key, auth, parents } = await load();
  const signed = await tpm.certify(key.handle, auth, ak.handle, challenge.nonce);
  return { secret, key: { publicArea: key.publicArea, parents }, ...signed };
}
