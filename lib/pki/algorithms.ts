import { concatBytes, equalBytes } from "../domain/bytes.ts";
import type { KeyAlgorithm, SignatureAlgorithm } from "../domain/signing.ts";
import { nullValue, oid, sequence } from "./der-write.ts";
import { OID } from "./oids.ts";

/** Signature AlgorithmIdentifiers (RFC 5758, RFC 8410, RFC 4055), the one DER encoding each has. */
const IDENTIFIERS: Record<SignatureAlgorithm, Uint8Array> = {
  "ecdsa-p256-sha256": sequence(oid(OID.ecdsaWithSha256)),
  "ecdsa-p384-sha384": sequence(oid(OID.ecdsaWithSha384)),
  ed25519: sequence(oid(OID.ed25519)),
  "rsa-pkcs1-sha256": sequence(concatBytes(oid(OID.sha256WithRsaEncryption), nullValue())),
  "rsa-pkcs1-sha384": sequence(concatBytes(oid(OID.sha384WithRsaEncryption), nullValue())),
  "rsa-pkcs1-sha512": sequence(concatBytes(oid(OID.sha512WithRsaEncryption), nullValue())),
};

const KEYS: Record<SignatureAlgorithm, readonly KeyAlgorithm[]> = {
  "ecdsa-p256-sha256": ["ec-p256"],
  "ecdsa-p384-sha384": ["ec-p384"],
  ed25519: ["ed25519"],
  "rsa-pkcs1-sha256": ["rsa-2048", "rsa-3072", "rsa-4096"],
  "rsa-pkcs1-sha384": ["rsa-2048", "rsa-3072", "rsa-4096"],
  "rsa-pkcs1-sha512": ["rsa-2048", "rsa-3072", "rsa-4096"],
};

/** DER AlgorithmIdentifier. */
export function algorithmIdentifier(algorithm: SignatureAlgorithm): Uint8Array {
  return IDENTIFIERS[algorithm];
}

/**
 * The algorithm of a DER AlgorithmIdentifier; undefined for any other octets. ECDSA identifiers name no curve: with
 * SHA-256 we mean P-256 and with SHA-384 P-384, and {@link algorithmFitsKey} must be asked with the key in hand.
 */
export function signatureAlgorithmOf(identifier: Uint8Array): SignatureAlgorithm | undefined {
  for (const [algorithm, der] of Object.entries(IDENTIFIERS)) {
    if (equalBytes(der, identifier)) return algorithm as SignatureAlgorithm;
  }
  return undefined;
}

export function algorithmFitsKey(algorithm: SignatureAlgorithm, key: KeyAlgorithm): boolean {
  return KEYS[algorithm].includes(key);
}

/** What we sign with, given the key. */
export function signatureAlgorithmForKey(key: KeyAlgorithm): SignatureAlgorithm {
  if (key === "ec-p256") return "ecdsa-p256-sha256";
  if (key === "ec-p384") return "ecdsa-p384-sha384";
  return key === "ed25519" ? "ed25519" : "rsa-pkcs1-sha256";
}
