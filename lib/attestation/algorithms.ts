import { sha256, sha384, sha512 } from "@noble/hashes/sha2.js";

/** TPM_ALG_ID, those that are taken here (TCG Algorithm Registry). */
export const ALG = {
  rsa: 0x0001,
  aes: 0x0006,
  sha256: 0x000b,
  sha384: 0x000c,
  sha512: 0x000d,
  null: 0x0010,
  rsassa: 0x0014,
  rsaes: 0x0015,
  rsapss: 0x0016,
  oaep: 0x0017,
  ecdsa: 0x0018,
  ecdh: 0x0019,
  ecdaa: 0x001a,
  sm2: 0x001b,
  ecschnorr: 0x001c,
  ecmqv: 0x001d,
  ecc: 0x0023,
  cfb: 0x0043,
} as const;

/** TPM_ECC_CURVE */
export const CURVE = { p256: 0x0003, p384: 0x0004 } as const;

export type HashName = "sha256" | "sha384" | "sha512";

const HASHES = new Map([
  [ALG.sha256 as number, { name: "sha256" as HashName, hash: sha256 }],
  [ALG.sha384 as number, { name: "sha384" as HashName, hash: sha384 }],
  [ALG.sha512 as number, { name: "sha512" as HashName, hash: sha512 }],
]);

/** The hash of a TPM_ALG_ID; undefined for one that isn't taken: SHA-1 among them. */
export const hashOf = (algorithm: number) => HASHES.get(algorithm);
