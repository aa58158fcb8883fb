/**
 * What signs and what checks signatures. Keys live in tokens; this file only names the shapes, so that lib/
 * stays free of Node and of PKCS#11.
 */

/** ECDSA signatures are DER (RFC 3279), Ed25519 ones 64 raw bytes (RFC 8032), RSA ones PKCS#1 v1.5. */
export type SignatureAlgorithm =
  | "ecdsa-p256-sha256"
  | "ecdsa-p256-sha384"
  | "ecdsa-p256-sha512"
  | "ecdsa-p384-sha256"
  | "ecdsa-p384-sha384"
  | "ecdsa-p384-sha512"
  | "ed25519"
  | "rsa-pkcs1-sha256"
  | "rsa-pkcs1-sha384"
  | "rsa-pkcs1-sha512";

export type KeyAlgorithm = "ec-p256" | "ec-p384" | "ed25519" | "rsa-2048" | "rsa-3072" | "rsa-4096";

/** A private key in a token. `sign` resolves only with a signature that was verified against `spki`. */
export interface Signer {
  /** DER SubjectPublicKeyInfo */
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
  /** Signs the message (hashing included). Safe to call concurrently; may produce a different signature each time. */
  sign(message: Uint8Array): Promise<Uint8Array>;
}

/** Checks one signature. Returns false, never throws, on a wrong or malformed signature or an unusable key. */
export type VerifySignature = (check: {
  spki: Uint8Array;
  algorithm: SignatureAlgorithm;
  message: Uint8Array;
  signature: Uint8Array;
}) => boolean | Promise<boolean>;
