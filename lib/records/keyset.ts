import { z } from "zod";
import { concatBytes, fromBase64, utf8 } from "../domain/bytes.ts";
import { canonicalJson } from "../domain/json.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { base64, origin, partyId, sha256Hex, spki, vkey } from "./primitives.ts";

/**
 * A party's public keys by role, each with a proof that the party holds the private one:
 * - ca: the digest of the PKCS#10 request (or of the self-signed root) that the key signed
 * - infrastructure: the digest of its self-signed certificate, which lies beside the ledger
 * - log: its size-0 checkpoint; witness: a signature over {@link keysetProofMessage}
 * - image signing, of a party that signs firmware images: a signature over {@link imageKeyProofMessage}
 * - act: the signature on the act or envelope that carries the keyset
 */
export const keyset = z.strictObject({
  party: partyId,
  ca: spki,
  act: spki,
  infrastructure: spki,
  imageSigning: spki.optional(),
  log: z.strictObject({ origin, vkey }),
  witness: z.strictObject({ vkey }),
  proofs: z.strictObject({
    ca: z.strictObject({ kind: z.enum(["csr", "self-signed"]), sha256: sha256Hex }),
    infrastructure: z.strictObject({ certificateSha256: sha256Hex }),
    log: z.strictObject({ checkpoint: z.string().max(2048) }),
    witness: z.strictObject({ signature: base64(64) }),
    imageSigning: z.strictObject({ signature: base64(72) }).optional(),
  }),
});
export type Keyset = z.infer<typeof keyset>;

/** What the witness key signs to show that it belongs to this keyset. */
export function keysetProofMessage(keys: Omit<Keyset, "proofs">): Uint8Array {
  return concatBytes(utf8("countersign/keyset/v1\n"), keysBytes(keys));
}

/** What an image-signing key's proof of possession begins with, and no image does. */
export const IMAGE_KEY_PROOF = utf8("countersign/image-key/v1\n");

/** What the image-signing key signs to show that it belongs to this keyset. */
export function imageKeyProofMessage(keys: Omit<Keyset, "proofs">): Uint8Array {
  return concatBytes(IMAGE_KEY_PROOF, keysBytes(keys));
}

/** Whether the image-signing key, where there is one, was shown to be in the party's hands. */
export async function imageKeyProven(keyset: Keyset, verify: VerifySignature): Promise<boolean> {
  const { imageSigning, proofs } = keyset;
  if (imageSigning === undefined || proofs.imageSigning === undefined) return imageSigning === proofs.imageSigning;
  return await verify({
    spki: fromBase64(imageSigning),
    algorithm: "ecdsa-p256-sha256",
    message: imageKeyProofMessage(keyset),
    signature: fromBase64(proofs.imageSigning.signature),
  });
}

function keysBytes({ party, ca, act, infrastructure, imageSigning, log, witness }: Omit<Keyset, "proofs">): Uint8Array {
  const image = imageSigning === undefined ? {} : { imageSigning };
  return canonicalJson({ party, ca, act, infrastructure, ...image, log, witness });
}
