import { hash } from "node:crypto";
import type { Sha256 } from "../../lib/domain/hash.ts";

/**
 * OpenSSL's SHA-256, several times faster than the portable one: for the paths that hash every entry. By way of a string:
 * asked for bytes, Node allocates them outside of the heap, which costs more than hashing does, then and when they go.
 */
export const nodeSha256: Sha256 = (data) => {
  const text = hash("sha256", data, "binary");
  const digest = new Uint8Array(32);
  for (let i = 0; i < 32; i++) digest[i] = text.charCodeAt(i);
  return digest;
};

/** The same as lowercase hex; text is hashed as UTF-8. */
export const sha256Hex = (data: Uint8Array | string): string => hash("sha256", data, "hex");
