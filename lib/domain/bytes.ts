/** Byte helpers that run anywhere (no Node). All hex is lower case. */

/**
 * Where the platform has native codecs (Node's Buffer), they do the work: every act of a lot passes here several times.
 * What is refused is decided by this file in either case.
 */
interface NativeCodec {
  from(text: string, encoding: "hex" | "base64" | "utf8"): Uint8Array;
  from(buffer: ArrayBufferLike, offset: number, length: number): { toString(encoding: "hex" | "base64"): string };
  allocUnsafe(length: number): Uint8Array;
  compare(a: Uint8Array, b: Uint8Array): number;
}
const native = (globalThis as { Buffer?: NativeCodec }).Buffer;
const view = (codec: NativeCodec, bytes: Uint8Array) => codec.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
/** Of bytes that nobody else has: a plain array without Buffer's methods, small ones out of Buffer's pool. */
function plain(bytes: Uint8Array): Uint8Array {
  if (bytes.length <= INSIDE_BYTES) return new Uint8Array(bytes);
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** What fits here lies inside the engine's own heap; beyond it a platform's pool is much cheaper than memory of one's own. */
const INSIDE_BYTES = 64;
const POOLED_BYTES = 4096;

/**
 * Bytes that the caller writes to the last one before anybody else sees them. What they lie in may be shared: `buffer` is
 * nobody's to transfer or write to.
 */
export function blankBytes(length: number): Uint8Array {
  if (native === undefined || length <= INSIDE_BYTES || length > POOLED_BYTES) return new Uint8Array(length);
  const { buffer, byteOffset } = native.allocUnsafe(length);
  return new Uint8Array(buffer, byteOffset, length);
}

const HEX = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0"));

export function toHex(bytes: Uint8Array): string {
  if (native !== undefined) return view(native, bytes).toString("hex");
  let out = "";
  for (const byte of bytes) out += HEX[byte];
  return out;
}

/** @throws RangeError when `hex` isn't an even number of hex digits */
export function fromHex(hex: string): Uint8Array {
  if (hex.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(hex)) throw new RangeError("not a hex string");
  if (native !== undefined) return plain(native.from(hex, "hex"));
  const out = new Uint8Array(hex.length / 2);
  for (let i = 0; i < out.length; i++) out[i] = Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16);
  return out;
}

export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const out = blankBytes(length);
  let offset = 0;
  for (const part of parts) {
    out.set(part, offset);
    offset += part.length;
  }
  return out;
}

/** Byte strings one after the other, each behind its length (4 bytes, big-endian), as views of `bytes`. */
export function splitPrefixed(bytes: Uint8Array): Uint8Array[] {
  const lengths = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const from = at + 4;
    at = from + lengths.getUint32(at);
    parts.push(bytes.subarray(from, at));
  }
  return parts;
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  if (native !== undefined && a.length > 256) return native.compare(a, b) === 0;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

const encoder = new TextEncoder();
const strictDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function utf8(text: string): Uint8Array {
  return native === undefined ? encoder.encode(text) : plain(native.from(text, "utf8"));
}

/** @throws TypeError when `bytes` isn't well-formed UTF-8 */
export function fromUtf8(bytes: Uint8Array): string {
  return strictDecoder.decode(bytes);
}

/** Standard padded base64 (RFC 4648 section 4). */
export function toBase64(bytes: Uint8Array): string {
  if (native !== undefined) return view(native, bytes).toString("base64");
  let binary = "";
  for (let i = 0; i < bytes.length; i += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  }
  return btoa(binary);
}

/** @throws RangeError when `text` isn't canonical padded base64: exactly one encoding is accepted for each byte string */
export function fromBase64(text: string): Uint8Array {
  if (text.length % 4 !== 0) throw new RangeError("not padded base64");
  const out = native === undefined ? decodeBase64(text) : plain(native.from(text, "base64"));
  // Whatever a decoder skips, or reads in another spelling, isn't what comes out again.
  if (toBase64(out) !== text) throw new RangeError("not canonical base64");
  return out;
}

function decodeBase64(text: string): Uint8Array {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw new RangeError("not padded base64");
  const binary = atob(text);
  const out = new Uint8Array(binary.length);
  for (let i = 0; i < out.length; i++) out[i] = binary.charCodeAt(i);
  return out;
}
