import { CountersignError } from "../lib/domain/errors.ts";
import { sequence, unsignedInteger } from "../lib/pki/der-write.ts";

/** CKM_ECDSA's r || s as the DER ECDSA-Sig-Value of RFC 3279 section 2.2.3. `size`: bytes of the curve's order. */
export function ecdsaSignatureDer(raw: Uint8Array, size: number): Uint8Array {
  if (raw.length !== 2 * size) {
    throw new CountersignError(
      "hsm-signature-invalid",
      `the token returned ${raw.length} bytes where an ECDSA signature has ${2 * size}`,
    );
  }
  return sequence(unsignedInteger(raw.subarray(0, size)), unsignedInteger(raw.subarray(size)));
}
