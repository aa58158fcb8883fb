import { equalBytes, fromBase64, toBase64 } from "../domain/bytes.ts";
import { isCountersignError } from "../domain/errors.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { checkCsr, parseCsr } from "../pki/csr.ts";
import { rotationChallenge, type Rotated, type RotationOf } from "../records/rotation.ts";

/**
 * Why the two requests don't show that both keys are in the party's hands and mean this change; undefined when they do.
 * @param proofs DER
 */
export async function rotationFault(
  of: RotationOf,
  proofs: { readonly old: Uint8Array; readonly new: Uint8Array },
  verify: VerifySignature,
): Promise<string | undefined> {
  if (of.old === of.new) return "it is the same key";
  const challenge = rotationChallenge(of);
  for (const which of ["old", "new"] as const) {
    try {
      const csr = parseCsr(proofs[which]);
      if (!equalBytes(csr.der, proofs[which])) return `the ${which} key's proof isn't DER`;
      await checkCsr(csr, verify);
      if (toBase64(csr.spki) !== of[which]) return `the ${which} key's proof is another key's`;
      if (csr.challengePassword !== challenge) return `the ${which} key's proof is for another change`;
    } catch (error) {
      if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
      return `the ${which} key's proof doesn't hold: ${error.message}`;
    }
  }
  return undefined;
}

/** The same of what a `rotated` act says. */
export function rotatedFault(
  fields: Rotated,
  of: Pick<RotationOf, "party" | "supersedes">,
  verify: VerifySignature,
): Promise<string | undefined> {
  const proofs = { old: fromBase64(fields.old.proof), new: fromBase64(fields.new.proof) };
  return rotationFault({ ...of, old: fields.old.spki, new: fields.new.spki }, proofs, verify);
}
