import { z } from "zod";
import { utf8, concatBytes } from "../domain/bytes.ts";
import { canonicalJson } from "../domain/json.ts";
import { base64, origin, partyId, sha256Hex, spki, vkey } from "./primitives.ts";

/**
 * A party's public keys by role, each with a proof that the party holds the private one:
 * - ca: the digest of the PKCS#10 request (or of the self-signed root) that the key signed
 * - infrastructure: the digest of its self-signed certificate, which lies beside the ledger
 * - log: its size-0 checkpoint; witness: a signature over {@link keysetProofMessage}
 * - act: the signature on the act or envelope that carries the keyset
 */
export const keyset = z.strictObject({
  party: partyId,
  ca: spki,
  act: spki,
  infrastructure: spki,
  log: z.strictObject({ origin, vkey }),
  witness: z.strictObject({ vkey }),
  proofs: z.strictObject({
    ca: z.strictObject({ kind: z.enum(["csr", "self-signed"]), sha256: sha256Hex }),
    infrastructure: z.strictObject({ certificateSha256: sha256Hex }),
    log: z.strictObject({ checkpoint: z.string().max(2048) }),
    witness: z.strictObject({ signature: base64(64) }),
  }),
});
export type Keyset = z.infer<typeof keyset>;

/** What the witness key signs to show that it belongs to this keyset. */
export function keysetProofMessage(keys: Omit<Keyset, "proofs">): Uint8Array {
  const { party, ca, act, infrastructure, log, witness } = keys;
  return concatBytes(utf8("countersign/keyset/v1\n"), canonicalJson({ party, ca, act, infrastructure, log, witness }));
}
