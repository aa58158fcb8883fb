import { concatBytes, equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { sha256 } from "../domain/hash.ts";

/**
 * MCUboot's image, little-endian: header, payload, protected TLVs (hashed and signed with what is before them), then
 * TLVs that aren't. Both areas begin with {magic u16, total u16}, the total counting these four bytes.
 */

const IMAGE_MAGIC = 0x96f3b83d;
export const IMAGE_MAGIC_BYTES = Uint8Array.of(0x3d, 0xb8, 0xf3, 0x96);
export const HEADER_SIZE = 32;
/** of the header's protect_tlv_size, u16 */
export const PROTECT_SIZE_AT = 10;

export const TLV = {
  keyHash: 0x01,
  publicKey: 0x02,
  sha256: 0x10,
  ecdsa: 0x22,
  bootRecord: 0x60,
} as const;

const INFO = 4;
const PROTECTED_MAGIC = 0x6908;
const UNPROTECTED_MAGIC = 0x6907;
const ENCRYPTED_FLAGS = 0x4 | 0x8;
const COMPRESSED_FLAGS = 0x200 | 0x400;

export interface Tlv {
  readonly type: number;
  readonly value: Uint8Array;
}

export interface McubootImage {
  /** header and payload */
  readonly body: Uint8Array;
  readonly protectedTlvs: readonly Tlv[];
  readonly tlvs: readonly Tlv[];
  /** file offset behind the TLVs, and what is there: nothing, or the rest of the slot with its trailer */
  readonly end: number;
  readonly rest: Uint8Array;
  readonly encrypted: boolean;
  readonly compressed: boolean;
}

/** @throws CountersignError `image-invalid`, for a digest that doesn't hold too (an encrypted image's isn't checked) */
export function parseMcuboot(bytes: Uint8Array): McubootImage {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < HEADER_SIZE || view.getUint32(0, true) !== IMAGE_MAGIC) {
    throw invalid("it doesn't start with MCUboot's magic (3D B8 F3 96)");
  }
  const headerSize = view.getUint16(8, true);
  const protectSize = view.getUint16(PROTECT_SIZE_AT, true);
  const bodySize = headerSize + view.getUint32(12, true);
  const flags = view.getUint32(16, true);
  if (headerSize < HEADER_SIZE) throw invalid(`its header says that it has ${headerSize} bytes`);
  if (bodySize + INFO > bytes.length) throw invalid("it is cut off: its TLVs are missing");

  const { tlvs: protectedTlvs, end: protectedEnd } =
    protectSize === 0 ? { tlvs: [], end: bodySize } : readArea(bytes, bodySize, PROTECTED_MAGIC);
  if (protectedEnd - bodySize !== protectSize) {
    throw invalid("its header and its protected TLVs disagree about their size");
  }
  const { tlvs, end } = readArea(bytes, protectedEnd, UNPROTECTED_MAGIC);
  const encrypted = (flags & ENCRYPTED_FLAGS) !== 0 || tlvs.some(({ type }) => type >= 0x30 && type <= 0x3f);
  const digests = tlvs.filter(({ type }) => type === TLV.sha256);
  if (digests.length !== 1) throw invalid(`it has ${digests.length} SHA-256 TLVs where one is needed`);
  if (!encrypted && !equalBytes(sha256(bytes.subarray(0, protectedEnd)), digests[0]!.value)) {
    throw invalid("its SHA-256 doesn't hold: it was changed after it was signed");
  }
  return {
    body: bytes.subarray(0, bodySize),
    protectedTlvs,
    tlvs,
    end,
    rest: bytes.subarray(end),
    encrypted,
    compressed: (flags & COMPRESSED_FLAGS) !== 0,
  };
}

/** Whether an image begins here, from its header and the TLVs' magic alone. */
export function looksLikeMcuboot(header: Uint8Array): { readonly tlvAt: number } | undefined {
  if (header.length < HEADER_SIZE) return undefined;
  const view = new DataView(header.buffer, header.byteOffset, header.length);
  if (view.getUint32(0, true) !== IMAGE_MAGIC || view.getUint16(8, true) < HEADER_SIZE) return undefined;
  return { tlvAt: view.getUint16(8, true) + view.getUint32(12, true) };
}

export function isTlvInfo(info: Uint8Array): boolean {
  const magic = (info[0] ?? 0) | ((info[1] ?? 0) << 8);
  return magic === PROTECTED_MAGIC || magic === UNPROTECTED_MAGIC;
}

export function encodeProtected(tlvs: readonly Tlv[]): Uint8Array {
  return encodeArea(PROTECTED_MAGIC, tlvs);
}

export function encodeUnprotected(tlvs: readonly Tlv[]): Uint8Array {
  return encodeArea(UNPROTECTED_MAGIC, tlvs);
}

/** The bytes that an area of these TLVs takes. */
export function areaSize(tlvs: readonly Tlv[]): number {
  return tlvs.reduce((size, { value }) => size + INFO + value.length, INFO);
}

function encodeArea(magic: number, tlvs: readonly Tlv[]): Uint8Array {
  const parts = [u16pair(magic, areaSize(tlvs))];
  for (const { type, value } of tlvs) parts.push(u16pair(type, value.length), value);
  return concatBytes(...parts);
}

function u16pair(a: number, b: number): Uint8Array {
  return Uint8Array.of(a & 0xff, a >> 8, b & 0xff, b >> 8);
}

function readArea(bytes: Uint8Array, at: number, magic: number): { tlvs: Tlv[]; end: number } {
  if (at + INFO > bytes.length) throw invalid("it is cut off: its TLVs are missing");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const name = magic === PROTECTED_MAGIC ? "protected TLVs" : "TLVs";
  if (view.getUint16(at, true) !== magic) throw invalid(`there are no ${name} at ${at}`);
  const end = at + view.getUint16(at + 2, true);
  if (end > bytes.length || end < at + INFO) throw invalid(`its ${name} are cut off`);
  const tlvs: Tlv[] = [];
  for (let next = at + INFO; next < end;) {
    const valueAt = next + INFO;
    const valueEnd = valueAt <= end ? valueAt + view.getUint16(next + 2, true) : Infinity;
    if (valueEnd > end) throw invalid(`one of its ${name} runs past the area's end`);
    tlvs.push({ type: view.getUint16(next, true), value: bytes.subarray(valueAt, valueEnd) });
    next = valueEnd;
  }
  return { tlvs, end };
}

function invalid(why: string): CountersignError {
  return new CountersignError("image-invalid", `the image is no whole MCUboot image: ${why}`);
}
