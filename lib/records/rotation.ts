import { z } from "zod";
import { toHex } from "../domain/bytes.ts";
import { sha256 } from "../domain/hash.ts";
import { canonicalJson } from "../domain/json.ts";
import { actRef, base64, spki, type ActRef } from "./primitives.ts";

/** A CA's change of key: what both keys sign, and how others see that they did. */

/** A PKCS#10 request (DER) of the key, whose challengePassword is {@link rotationChallenge}. */
const request = base64(2048);

export const rotated = z.strictObject({
  role: z.literal("ca"),
  old: z.strictObject({ spki, proof: request }),
  new: z.strictObject({ spki, proof: request }),
  /** the parent's grant that names the new key */
  grant: actRef,
  /** of this ledger: intents under the old key lie before this size, those under the new one don't */
  effectiveSize: z.int().min(1),
});
export type Rotated = z.infer<typeof rotated>;

/** Who changes which key for which, and the grant in whose place the new key's comes. */
export interface RotationOf {
  readonly party: string;
  readonly supersedes: ActRef;
  /** SPKI, base64 */
  readonly old: string;
  readonly new: string;
}

/**
 * What both keys put into a request of theirs, hex. The grant's leaf hash makes it fresh: that leaf holds a serial number
 * of the parent's choosing, and is superseded once. A CA's key signs nothing else of this form.
 */
export function rotationChallenge({ party, supersedes, old, new: next }: RotationOf): string {
  const { origin, leafHash } = supersedes;
  return toHex(sha256(canonicalJson(["countersign/rotation/v1", "ca", party, origin, leafHash, old, next])));
}
