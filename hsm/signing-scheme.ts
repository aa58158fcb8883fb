import { hash } from "node:crypto";
import type { KeyAlgorithm } from "../lib/domain/signing.ts";
import { CK } from "./cryptoki.ts";
import { ecdsaSignatureDer } from "./ecdsa.ts";

/** How each kind of key signs: tokens only do the raw operation, so hashing and encoding are done here. */
export interface SigningScheme {
  mechanism: number;
  /** What the token is handed for a message: tokens only do the raw operation on it. */
  prepare: (message: Uint8Array) => Uint8Array;
  /** The signature as everyone else writes it. */
  finish: (raw: Uint8Array) => Uint8Array;
}

/** DigestInfo up to the SHA-256 value (RFC 8017 section 9.2, note 1). */
const SHA256_DIGEST_INFO = Buffer.from("3031300d060960864801650304020105000420", "hex");

const sha256 = (message: Uint8Array): Buffer => hash("sha256", message, "buffer");
const copy = (raw: Uint8Array): Uint8Array => new Uint8Array(raw);
const RSA: SigningScheme = {
  mechanism: CK.CKM_RSA_PKCS,
  prepare: (message) => Buffer.concat([SHA256_DIGEST_INFO, sha256(message)]),
  finish: copy,
};
export const SIGNING_SCHEMES: Readonly<Record<KeyAlgorithm, SigningScheme>> = {
  "ec-p256": { mechanism: CK.CKM_ECDSA, prepare: sha256, finish: (raw) => ecdsaSignatureDer(raw, 32) },
  "ec-p384": {
    mechanism: CK.CKM_ECDSA,
    prepare: (message) => hash("sha384", message, "buffer"),
    finish: (raw) => ecdsaSignatureDer(raw, 48),
  },
  ed25519: { mechanism: CK.CKM_EDDSA, prepare: (message) => message, finish: copy },
  "rsa-2048": RSA,
  "rsa-3072": RSA,
  "rsa-4096": RSA,
};
