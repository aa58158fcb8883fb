import type { VerifySignature } from "../domain/signing.ts";
import { algorithmFitsKey } from "./algorithms.ts";
import { inside, readWhole } from "./der.ts";
import { readSpki } from "./spki.ts";

const HASHES = { sha256: "SHA-256", sha384: "SHA-384", sha512: "SHA-512" } as const;

/**
 * Signature checking with the platform's WebCrypto, in Node and browsers. False for anything that isn't a good signature
 * of a key we take: a malformed key or signature, an algorithm that isn't the key's, a platform without Ed25519.
 */
export const webCryptoVerify: VerifySignature = async ({ spki, algorithm, message, signature }) => {
  try {
    if (!algorithmFitsKey(algorithm, readSpki(spki).algorithm)) return false;
    const { subtle } = globalThis.crypto;
    const importing = importParams(algorithm);
    const key = await subtle.importKey("spki", new Uint8Array(spki), importing, false, ["verify"]);
    const width = algorithm.startsWith("ecdsa-p256") ? 32 : algorithm.startsWith("ecdsa-p384") ? 48 : undefined;
    const raw = width === undefined ? new Uint8Array(signature) : ecdsaRaw(signature, width);
    return await subtle.verify(importing, key, raw, new Uint8Array(message));
  } catch {
    return false;
  }
};

function importParams(
  algorithm: Parameters<VerifySignature>[0]["algorithm"],
): EcdsaParams & EcKeyImportParams & RsaHashedImportParams {
  const params = { name: "", hash: "", namedCurve: "" };
  if (algorithm === "ed25519") return { ...params, name: "Ed25519" };
  const hash = HASHES[algorithm.slice(-6) as keyof typeof HASHES];
  if (algorithm.startsWith("ecdsa-p256")) return { name: "ECDSA", namedCurve: "P-256", hash };
  if (algorithm.startsWith("ecdsa-p384")) return { name: "ECDSA", namedCurve: "P-384", hash };
  return { ...params, name: "RSASSA-PKCS1-v1_5", hash };
}

/**
 * ECDSA-Sig-Value (RFC 3279 section 2.2.3) as r || s of `width` octets each, WebCrypto's form. Strict: minimal positive
 * integers of at most `width` octets, nothing after them, so that one signature has one encoding.
 * @throws CountersignError `der-invalid`
 */
export function ecdsaRaw(signature: Uint8Array, width: number): Uint8Array<ArrayBuffer> {
  const reader = inside(readWhole(signature));
  const raw = new Uint8Array(2 * width);
  for (const end of [width, 2 * width]) {
    const integer = reader.unsigned();
    if (integer.length > width) throw reader.fail("ECDSA integer wider than the curve");
    raw.set(integer, end - integer.length);
  }
  reader.end();
  return raw;
}
