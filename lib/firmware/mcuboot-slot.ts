import { CountersignError } from "../domain/errors.ts";
import { hex } from "./hexadecimal.ts";
import { areaSize, TLV, type McubootImage, type Tlv } from "./mcuboot-image.ts";

/** Whether an MCUboot image can be signed again at all, and whether there is room for what that adds. */

/** ECDSA-Sig-Value on P-256 has at most 72 bytes, a P-256 SubjectPublicKeyInfo 91: a slot that fits those fits each. */
const LONGEST = [32, 91, 72].map((length) => ({ type: 0, value: new Uint8Array(length) }));
/** MCUboot's trailer with its usual 128 sectors and 8-byte writes: swap status, flags, magic. */
const TRAILER_SIZE = 128 * 3 * 8 + 4 * 8 + 16;
export const ERASED = 0xff;
/** RSA, other curves, Ed25519, pure signatures: their bootloader won't take the P-256 signature that we put instead. */
const OTHER_SIGNATURES = [0x20, 0x21, 0x23, 0x24, 0x25];
const SIGNING: readonly number[] = [TLV.keyHash, TLV.publicKey, TLV.sha256, TLV.ecdsa];

/** The unprotected TLVs that signing doesn't make anew. */
export function keptTlvs(image: McubootImage): Tlv[] {
  return image.tlvs.filter(({ type }) => !SIGNING.includes(type));
}

/** @throws CountersignError `image-encrypted`, `image-invalid`, `key-unsupported` */
export function refuseUnsignable(image: McubootImage, tag: number): void {
  if (image.encrypted) {
    throw new CountersignError(
      "image-encrypted",
      "the image is encrypted: what is signed is its plain text, which isn't here; inject before it is encrypted",
    );
  }
  if (image.compressed) {
    throw new CountersignError(
      "image-invalid",
      "the image is compressed, with a second signature inside; inject before",
    );
  }
  if (image.protectedTlvs.filter(({ type }) => type === tag).length > 1) {
    throw new CountersignError(
      "image-invalid",
      `the image has several protected TLVs ${hex(tag)}; choose another --tag`,
    );
  }
  const other = image.tlvs.find(({ type }) => OTHER_SIGNATURES.includes(type));
  const twice = image.tlvs.filter(({ type }) => type === TLV.ecdsa).length > 1;
  if (other === undefined && !twice) return;
  throw new CountersignError(
    "key-unsupported",
    (other === undefined ? "the image has several signatures" : `the image's signature is of type ${hex(other.type)}`) +
      ": its bootloader won't boot it with one ECDSA P-256 signature instead; build both for P-256",
  );
}

/**
 * @param length the slot's bytes, where the image isn't padded to them
 * @throws CountersignError `image-region-too-small`, `image-region-overlap`
 */
export function checkRoom(image: McubootImage, length: number | undefined, protectedTlvs: readonly Tlv[]): void {
  const { body, rest, end } = image;
  const protectedSize = protectedTlvs.length === 0 ? 0 : areaSize(protectedTlvs);
  const needed = body.length + protectedSize + areaSize([...LONGEST, ...keptTlvs(image)]);
  const slot = rest.length > 0 ? end + rest.length : length;
  if (length !== undefined && end + rest.length > length) throw tooSmall(end + rest.length, length, "the slot");
  if (protectedSize > 0xffff) throw tooSmall(protectedSize, 0xffff, "the protected TLV area");
  if (slot === undefined) return;
  if (needed > slot - TRAILER_SIZE) throw tooSmall(needed, slot - TRAILER_SIZE, "the slot, its trailer left out,");
  const used = rest.subarray(0, Math.max(0, needed - end)).findIndex((byte) => byte !== ERASED);
  if (used < 0) return;
  throw new CountersignError(
    "image-region-overlap",
    `the slot holds something behind the image at ${hex(end + used)}; build it padded with FF only`,
    { details: { offset: end + used } },
  );
}

/** What lies behind the TLVs, from the first byte that isn't erased. */
export function trailerOf({ rest }: McubootImage): Uint8Array {
  const from = rest.findIndex((byte) => byte !== ERASED);
  return rest.subarray(from < 0 ? rest.length : from);
}

function tooSmall(needed: number, available: number, what: string): CountersignError {
  return new CountersignError(
    "image-region-too-small",
    `the image needs ${needed} bytes and ${what} has ${Math.max(0, available)}; shorten the chain or use a larger slot`,
    { details: { needed, available } },
  );
}
