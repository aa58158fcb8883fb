import { sha256 as nobleSha256 } from "@noble/hashes/sha2.js";
import { toHex } from "./bytes.ts";

/** A synchronous SHA-256. Hot paths in Node pass in `node:crypto`'s; everything else uses the portable default. */
export type Sha256 = (data: Uint8Array) => Uint8Array;

/** Portable SHA-256 (FIPS 180-4): 32 bytes, in Node and in browsers. */
export const sha256: Sha256 = (data) => nobleSha256(data);

export function sha256Hex(data: Uint8Array): string {
  return toHex(sha256(data));
}
