import { z } from "zod";
import { DEVICE_ID, LOT_ID, PARTY_ID } from "../domain/ids.ts";

/** Building blocks of every record. Digests and serials are lower-case hex, bytes are canonical base64. */

export const sha256Hex = z.string().regex(/^[0-9a-f]{64}$/, "expected 64 lower-case hex digits");
export const serialHex = z.string().regex(/^[0-9a-f]{2,40}$/, "expected a serial of 1 to 20 octets in lower-case hex");

/** Padded base64 of at most `maxBytes` decoded bytes. */
export function base64(maxBytes: number) {
  return (
    z
      .string()
      .max(4 * Math.ceil(maxBytes / 3))
      // The bits that padding leaves over are zero: one spelling for each byte string, as fromBase64 demands.
      .regex(
        /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$/,
        "expected padded base64",
      )
  );
}

/** RFC 3339 in UTC, with milliseconds: one spelling for each instant. */
export const timestamp = z
  .string()
  .regex(/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/, "expected a UTC time such as 2026-07-01T00:00:00.000Z")
  .refine((text) => !Number.isNaN(Date.parse(text)), "not a time");

export const deviceId = z.string().regex(DEVICE_ID, "expected a device ID");
export const partyId = z.string().regex(PARTY_ID, "expected a party ID");
export const lotId = z.string().regex(LOT_ID, "expected a lot ID");

/** A log origin: a schema-less URL without spaces or `+` (C2SP signed-note). */
export const origin = z.string().regex(/^[a-z0-9][a-z0-9.\-/]{0,127}$/, "expected a log origin");
/** C2SP vkey: name+hash+base64 */
export const vkey = z
  .string()
  .max(400)
  .regex(/^[^\s+]{1,128}\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+$/, "expected a vkey");

export const spki = base64(1024);
/** Bytes of a certificate that a record may show. */
export const MAX_SHOWN_CERTIFICATE = 16_384;
export const certificateDer = base64(MAX_SHOWN_CERTIFICATE);
export const slotNumber = z.int().min(1).max(100_000_000);
export const httpsUrl = z.url({ protocol: /^https$/ }).max(512);
export const httpUrl = z.url({ protocol: /^https?$/ }).max(512);

/** An audit path of RFC 6962, leaf's sibling first. */
export const auditPath = z.array(sha256Hex).max(63);

/** Names an act wherever it lies. */
export const actRef = z.strictObject({ origin, leafHash: sha256Hex });
export type ActRef = z.infer<typeof actRef>;

/** A previous act; where that act covers a list, the item's place in the list. */
export const prevRef = z.strictObject({
  origin,
  leafHash: sha256Hex,
  listIndex: z.int().min(0).optional(),
  path: auditPath.optional(),
});
export type PrevRef = z.infer<typeof prevRef>;

/** Bytes that lie beside the ledger under their digest. */
export const blobRef = z.strictObject({ name: z.string().min(1).max(64), sha256: sha256Hex, size: z.int().min(0) });
export type BlobRef = z.infer<typeof blobRef>;

/** A certificate profile by name, pinned by the digest of its canonical JSON. */
export const profileRef = z.strictObject({ name: z.string().regex(/^[a-z0-9-]{1,40}$/), sha256: sha256Hex });
export type ProfileRef = z.infer<typeof profileRef>;
