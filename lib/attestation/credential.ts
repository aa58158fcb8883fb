import { hmac } from "@noble/hashes/hmac.js";
import { concatBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { KeyAlgorithm } from "../domain/signing.ts";
import { keyAlgorithmOf, readSpki } from "../pki/spki.ts";
import { ALG, hashOf, type HashName } from "./algorithms.ts";
import { tpm2b, u32 } from "./cursor.ts";
import { label } from "./public-area.ts";

/** What MakeCredential needs of the platform; `node:crypto` has all of it. */
export interface CredentialCrypto {
  random(octets: number): Uint8Array;
  /** RSAES-OAEP (RFC 8017), MGF1 with the same hash */
  rsaOaep(spki: Uint8Array, hash: HashName, oaepLabel: Uint8Array, message: Uint8Array): Uint8Array;
  /** A fresh key on the curve of `spki`: its uncompressed point, and the shared secret's x-coordinate, as wide as the curve. */
  ecdh(spki: Uint8Array): { readonly point: Uint8Array; readonly secret: Uint8Array };
  /** AES in CFB mode with feedback of a whole block, the initial vector zero */
  aesCfb(key: Uint8Array, plaintext: Uint8Array): Uint8Array;
}

export interface Credential {
  /** TPM2B_ID_OBJECT */
  readonly idObject: Uint8Array;
  /** TPM2B_ENCRYPTED_SECRET */
  readonly encryptedSecret: Uint8Array;
}

/** How an endorsement key protects: the TCG EK Credential Profile's templates L-1 and H-1, L-2 and H-2, and H-3. */
const PROTECTION: Partial<Record<KeyAlgorithm, { alg: number; aesBits: number }>> = {
  "rsa-2048": { alg: ALG.sha256, aesBits: 128 },
  "ec-p256": { alg: ALG.sha256, aesBits: 128 },
  "ec-p384": { alg: ALG.sha384, aesBits: 256 },
};

/**
 * TPM2_MakeCredential (Part 1 section 24, Part 3 section 12.6), without a TPM: only the TPM that holds the endorsement key
 * gives `secret` back, and only while it also holds the key with `name`.
 * @param ekSpki of a key by one of the TCG EK profile's default templates
 * @param secret at most as long as the template's hash
 * @throws CountersignError `key-unsupported`
 */
export function makeCredential(
  ekSpki: Uint8Array,
  name: Uint8Array,
  secret: Uint8Array,
  crypto: CredentialCrypto,
): Credential {
  const algorithm = keyAlgorithmOf(ekSpki);
  const protection = PROTECTION[algorithm];
  if (protection === undefined) {
    throw new CountersignError(
      "key-unsupported",
      `an endorsement key is RSA 2048, P-256 or P-384 by a default template, not ${algorithm}`,
    );
  }
  const { name: hash, hash: digest } = hashOf(protection.alg)!;
  if (secret.length > digest.outputLen) throw new RangeError("the secret is longer than the key's hash");
  const { seed, encryptedSecret } =
    algorithm === "rsa-2048" ? byRsa(ekSpki, hash, crypto) : byEcdh(ekSpki, hash, crypto);
  const symmetric = kdfa(hash, seed, "STORAGE", name, protection.aesBits);
  const encrypted = crypto.aesCfb(symmetric, tpm2b(secret));
  const integrity = hmac(
    digest,
    kdfa(hash, seed, "INTEGRITY", new Uint8Array(), 8 * digest.outputLen),
    concatBytes(encrypted, name),
  );
  return { idObject: tpm2b(concatBytes(tpm2b(integrity), encrypted)), encryptedSecret: tpm2b(encryptedSecret) };
}

function byRsa(spki: Uint8Array, hash: HashName, crypto: CredentialCrypto) {
  const seed = crypto.random(hashNamed(hash).outputLen);
  return { seed, encryptedSecret: crypto.rsaOaep(spki, hash, label("IDENTITY"), seed) };
}

/** Part 1 annex C.6.1: the seed is KDFe over the shared secret's x-coordinate and both keys' own. */
function byEcdh(spki: Uint8Array, hash: HashName, crypto: CredentialCrypto) {
  const { point, secret } = crypto.ecdh(spki);
  const width = (point.length - 1) / 2;
  const [x, y] = [point.subarray(1, 1 + width), point.subarray(1 + width)];
  const own = readSpki(spki).keyOctets.subarray(1, 1 + width);
  return { seed: kdfe(hash, secret, "IDENTITY", x, own), encryptedSecret: concatBytes(tpm2b(x), tpm2b(y)) };
}

/** KDFa: SP 800-108 in counter mode with HMAC (Part 1 section 11.4.10.2). Whole octets. */
export function kdfa(hash: HashName, key: Uint8Array, text: string, contextU: Uint8Array, bits: number): Uint8Array {
  const digest = hashNamed(hash);
  const rounds = Math.ceil(bits / 8 / digest.outputLen);
  const blocks = Array.from({ length: rounds }, (_, i) =>
    hmac(digest, key, concatBytes(u32(i + 1), label(text), contextU, u32(bits))),
  );
  return concatBytes(...blocks).subarray(0, bits / 8);
}

/** KDFe: SP 800-56A section 5.8.1 (Part 1 section 11.4.10.3), as many bits as the hash has. */
function kdfe(hash: HashName, z: Uint8Array, use: string, partyU: Uint8Array, partyV: Uint8Array): Uint8Array {
  return hashNamed(hash)(concatBytes(u32(1), z, label(use), partyU, partyV));
}

function hashNamed(name: HashName) {
  return hashOf(ALG[name])!.hash;
}
