import { hash } from "node:crypto";
import type { Sha256 } from "../../lib/domain/hash.ts";

/** OpenSSL's SHA-256, several times faster than the portable one: for the paths that hash every entry. */
export const nodeSha256: Sha256 = (data) => hash("sha256", data, "buffer");

/** The same as lowercase hex; text is hashed as UTF-8. */
export const sha256Hex = (data: Uint8Array | string): string => hash("sha256", data, "hex");
