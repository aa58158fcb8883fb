import { blankBytes, concatBytes } from "../domain/bytes.ts";
import { contextTag, TAG } from "./der.ts";

/** DER writing: each function returns one complete element. Callers give well-formed values; nothing here validates. */

export function encodeElement(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  return encodeParts(tag, parts);
}

function encodeParts(tag: number, parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  let octets = 0;
  if (length >= 0x80) for (let rest = length; rest > 0; rest = Math.floor(rest / 256)) octets++;
  let at = 2 + octets;
  const out = blankBytes(at + length);
  out[0] = tag;
  out[1] = octets === 0 ? length : 0x80 | octets;
  for (let i = octets, rest = length; i > 0; i--, rest = Math.floor(rest / 256)) out[1 + i] = rest % 256;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

export function sequence(...parts: readonly Uint8Array[]): Uint8Array {
  return encodeElement(TAG.sequence, ...parts);
}

/** SEQUENCE OF: as many elements as there are, which as arguments might be too many. */
export function sequenceOf(parts: readonly Uint8Array[]): Uint8Array {
  return encodeParts(TAG.sequence, parts);
}

/** SET OF: the elements in ascending order of their encodings (X.690 section 11.6). */
export function setOf(...parts: readonly Uint8Array[]): Uint8Array {
  return encodeElement(TAG.set, ...parts.toSorted(compareOctets));
}

/** [n] EXPLICIT, or [n] IMPLICIT around constructed content. */
export function explicit(number: number, ...parts: readonly Uint8Array[]): Uint8Array {
  return encodeElement(contextTag(number, true), ...parts);
}

/** [n] IMPLICIT around primitive content. */
export function implicit(number: number, content: Uint8Array): Uint8Array {
  return encodeElement(contextTag(number, false), content);
}

/** INTEGER from an unsigned big-endian magnitude. */
export function unsignedInteger(magnitude: Uint8Array): Uint8Array {
  return encodeElement(TAG.integer, unsignedContent(magnitude));
}

export function unsignedContent(magnitude: Uint8Array): Uint8Array {
  let start = 0;
  while (start < magnitude.length - 1 && magnitude[start] === 0) start++;
  const trimmed = magnitude.length === 0 ? Uint8Array.of(0) : magnitude.subarray(start);
  return trimmed[0]! >= 0x80 ? concatBytes(Uint8Array.of(0), trimmed) : trimmed;
}

/** INTEGER from a safe non-negative number. */
export function integer(value: number): Uint8Array {
  const octets: number[] = [];
  for (let rest = value; rest > 0; rest = Math.floor(rest / 256)) octets.unshift(rest % 256);
  return unsignedInteger(Uint8Array.from(octets));
}

export function boolean(value: boolean): Uint8Array {
  return Uint8Array.of(TAG.boolean, 1, value ? 0xff : 0);
}

export function octetString(content: Uint8Array): Uint8Array {
  return encodeElement(TAG.octetString, content);
}

/** BIT STRING of whole octets. */
export function bitString(content: Uint8Array): Uint8Array {
  return encodeElement(TAG.bitString, Uint8Array.of(0), content);
}

/** BIT STRING with named bits, trailing zero bits removed (X.690 section 11.2.2). */
export function namedBitString(bits: readonly number[]): Uint8Array {
  const highest = Math.max(-1, ...bits);
  const content = new Uint8Array(1 + Math.ceil((highest + 1) / 8));
  content[0] = (8 - ((highest + 1) % 8)) % 8;
  for (const bit of bits) content[1 + (bit >> 3)]! |= 0x80 >> (bit & 7);
  return encodeElement(TAG.bitString, content);
}

const MAX_KNOWN_OIDS = 256;
const knownOids = new Map<string, Uint8Array>();

/** OBJECT IDENTIFIER from its dotted form. Callers must not write into the result: it is shared. */
export function oid(dotted: string): Uint8Array {
  const known = knownOids.get(dotted);
  if (known !== undefined) return known;
  const encoded = encodeOid(dotted);
  if (knownOids.size < MAX_KNOWN_OIDS) knownOids.set(dotted, encoded);
  return encoded;
}

function encodeOid(dotted: string): Uint8Array {
  const arcs = dotted.split(".").map((arc) => BigInt(arc));
  const octets: number[] = [];
  const [first, second, ...rest] = arcs as [bigint, bigint, ...bigint[]];
  for (const arc of [first * 40n + second, ...rest]) {
    const group: number[] = [Number(arc & 0x7fn)];
    for (let left = arc >> 7n; left > 0n; left >>= 7n) group.unshift(Number(left & 0x7fn) | 0x80);
    octets.push(...group);
  }
  return encodeElement(TAG.oid, Uint8Array.from(octets));
}

export function nullValue(): Uint8Array {
  return Uint8Array.of(TAG.null, 0);
}

export function compareOctets(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return a.length - b.length;
}
