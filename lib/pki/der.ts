import { CountersignError } from "../domain/errors.ts";

/** Identifier octets this profile of DER uses (X.690 section 8.1.2); context tags by {@link contextTag}. */
export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  enumerated: 0x0a,
  utf8String: 0x0c,
  numericString: 0x12,
  printableString: 0x13,
  teletexString: 0x14,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  visibleString: 0x1a,
  universalString: 0x1c,
  bmpString: 0x1e,
  sequence: 0x30,
  set: 0x31,
} as const;

export function contextTag(number: number, constructed: boolean): number {
  return 0x80 | (constructed ? 0x20 : 0) | number;
}

export interface DerElement {
  readonly tag: number;
  /** The value, without identifier and length. A view, not a copy. */
  readonly content: Uint8Array;
  /** The whole element. A view, not a copy. */
  readonly raw: Uint8Array;
  /** Where `raw` starts in the outermost input */
  readonly offset: number;
  /** Where `content` starts in the outermost input */
  readonly contentOffset: number;
}

/** An element in its place. Its views are made when they are asked for: of most elements one, of some none. */
class Element implements DerElement {
  readonly tag: number;
  readonly base: number;
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly contentStart: number;
  readonly end: number;
  #content: Uint8Array | undefined;

  constructor(tag: number, base: number, bytes: Uint8Array, start: number, contentStart: number, end: number) {
    this.tag = tag;
    this.base = base;
    this.bytes = bytes;
    this.start = start;
    this.contentStart = contentStart;
    this.end = end;
  }

  get content(): Uint8Array {
    return (this.#content ??= this.bytes.subarray(this.contentStart, this.end));
  }

  get raw(): Uint8Array {
    return this.bytes.subarray(this.start, this.end);
  }

  get offset(): number {
    return this.base + this.start;
  }

  get contentOffset(): number {
    return this.base + this.contentStart;
  }
}

export function derError(message: string, offset: number): CountersignError {
  return new CountersignError("der-invalid", `${message} (DER offset ${offset})`, { details: { offset } });
}

const MAX_OID_OCTETS = 64;

/**
 * A forward cursor over DER (X.690 section 10). One octet sequence per value: definite minimal lengths, single-octet
 * tags, minimal integers, booleans 00 or FF. Never recurses and never reads outside its window, so work is linear in
 * the input. Every refusal is a CountersignError `der-invalid` with `details.offset`.
 */
export class DerReader {
  readonly #bytes: Uint8Array;
  readonly #base: number;
  readonly #end: number;
  #position: number;

  /**
   * @param base where `bytes` starts in the outermost input, for error messages
   * @param start and `end`: the window of `bytes` that is read
   */
  constructor(bytes: Uint8Array, base = 0, start = 0, end = bytes.length) {
    this.#bytes = bytes;
    this.#base = base;
    this.#position = start;
    this.#end = end;
  }

  get offset(): number {
    return this.#base + this.#position;
  }

  get atEnd(): boolean {
    return this.#position >= this.#end;
  }

  /** The next identifier octet, or undefined at the end. */
  peek(): number | undefined {
    return this.atEnd ? undefined : this.#bytes[this.#position];
  }

  fail(message: string): CountersignError {
    return derError(message, this.offset);
  }

  /** The next element, of any tag or of `tag`. */
  read(tag?: number): DerElement {
    const bytes = this.#bytes;
    const window = this.#end;
    const start = this.#position;
    if (start >= window) throw this.fail("data ends where an element should start");
    const found = bytes[start]!;
    if (tag !== undefined && found !== tag) throw this.fail(`tag ${hex(found)} where ${hex(tag)} should be`);
    if ((found & 0x1f) === 0x1f) throw this.fail("multi-octet tag");
    if ((found & 0xc0) === 0) {
      const number = found & 0x1f;
      const mustBeConstructed = number === 0x10 || number === 0x11;
      if (number === 0 || mustBeConstructed !== ((found & 0x20) !== 0)) throw this.fail(`tag ${hex(found)} is not DER`);
    }
    let position = start + 1;
    if (position >= window) throw this.fail("data ends inside a length");
    let length = bytes[position++]!;
    if (length === 0x80) throw this.fail("indefinite length");
    if (length > 0x80) {
      const octets = length & 0x7f;
      if (octets > 4) throw this.fail("length of more than 4 octets");
      if (position + octets > window) throw this.fail("data ends inside a length");
      length = 0;
      for (let i = 0; i < octets; i++) length = length * 256 + bytes[position++]!;
      if (length < 0x80 || length < 2 ** (8 * (octets - 1))) throw this.fail("length not in its shortest form");
    }
    const end = position + length;
    if (end > window) throw this.fail("element runs past the end of its parent");
    this.#position = end;
    return new Element(found, this.#base, bytes, start, position, end);
  }

  readOptional(tag: number): DerElement | undefined {
    return this.peek() === tag ? this.read(tag) : undefined;
  }

  /** Enters a constructed element. */
  enter(tag: number = TAG.sequence): DerReader {
    return inside(this.read(tag));
  }

  enterOptional(tag: number): DerReader | undefined {
    return this.peek() === tag ? this.enter(tag) : undefined;
  }

  /** @throws when anything is left: trailing octets are never ignored */
  end(): void {
    if (!this.atEnd) throw this.fail("unexpected octets after the last element");
  }

  /** Two's complement content octets of an INTEGER, minimal. */
  integer(tag: number = TAG.integer): Uint8Array {
    const { content, offset } = this.read(tag);
    const [first, second] = content;
    if (first === undefined) throw derError("empty INTEGER", offset);
    if (second !== undefined && ((first === 0 && second < 0x80) || (first === 0xff && second >= 0x80))) {
      throw derError("INTEGER not in its shortest form", offset);
    }
    return content;
  }

  /** Magnitude of a non-negative INTEGER, without the sign octet (zero is one 00 octet). */
  unsigned(tag: number = TAG.integer): Uint8Array {
    const offset = this.offset;
    const content = this.integer(tag);
    if (content[0]! >= 0x80) throw derError("negative INTEGER", offset);
    return content.length > 1 && content[0] === 0 ? content.subarray(1) : content;
  }

  /** A non-negative INTEGER (or ENUMERATED) of at most `max`. */
  small(max: number, tag: number = TAG.integer): number {
    const offset = this.offset;
    const octets = this.unsigned(tag);
    let value = 0;
    if (octets.length > 6) throw derError(`INTEGER above ${max}`, offset);
    for (const octet of octets) value = value * 256 + octet;
    if (value > max) throw derError(`INTEGER above ${max}`, offset);
    return value;
  }

  boolean(tag: number = TAG.boolean): boolean {
    const { content, offset } = this.read(tag);
    if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff))
      throw derError("BOOLEAN not 00 or FF", offset);
    return content[0] === 0xff;
  }

  /** Dotted form. */
  oid(tag: number = TAG.oid): string {
    const { content, offset } = this.read(tag);
    return decodeOid(content, offset);
  }

  octets(tag: number = TAG.octetString): Uint8Array {
    return this.read(tag).content;
  }

  null(): void {
    const { content, offset } = this.read(TAG.null);
    if (content.length !== 0) throw derError("NULL with content", offset);
  }

  /** A BIT STRING of whole octets. */
  bitString(tag: number = TAG.bitString): Uint8Array {
    const { content, offset } = this.read(tag);
    if (content[0] !== 0) throw derError("BIT STRING with unused bits where octets should be", offset);
    return content.subarray(1);
  }

  /** A BIT STRING with named bits (X.690 section 11.2.2: no trailing zero bits): the numbers of those set, ascending. */
  namedBits(tag: number = TAG.bitString): number[] {
    const { content, offset } = this.read(tag);
    const unused = content[0];
    const last = content[content.length - 1]!;
    if (unused === undefined || unused > 7 || (content.length === 1 && unused !== 0)) {
      throw derError("malformed BIT STRING", offset);
    }
    if (content.length > 5) throw derError("BIT STRING of more than 32 named bits", offset);
    if (content.length > 1 && ((last >> unused) & 1) === 0)
      throw derError("BIT STRING with trailing zero bits", offset);
    if ((last & ((1 << unused) - 1)) !== 0 && content.length > 1) throw derError("unused bits not zero", offset);
    const bits: number[] = [];
    for (let i = 0; i < (content.length - 1) * 8; i++) {
      if ((content[1 + (i >> 3)]! >> (7 - (i & 7))) & 1) bits.push(i);
    }
    return bits;
  }
}

/** A reader over an element's content. */
export function inside(element: DerElement): DerReader {
  if (element instanceof Element) {
    return new DerReader(element.bytes, element.base, element.contentStart, element.end);
  }
  return new DerReader(element.content, element.contentOffset);
}

/** Reads one whole element that must be all of `bytes`. */
export function readWhole(bytes: Uint8Array, tag: number = TAG.sequence): DerElement {
  const reader = new DerReader(bytes);
  const element = reader.read(tag);
  reader.end();
  return element;
}

function decodeOid(content: Uint8Array, offset: number): string {
  if (content.length === 0 || content.length > MAX_OID_OCTETS)
    throw derError("OBJECT IDENTIFIER of unusable length", offset);
  if (content[content.length - 1]! >= 0x80) throw derError("OBJECT IDENTIFIER ends inside an arc", offset);
  const arcs: string[] = [];
  let start = 0;
  for (let i = 0; i < content.length; i++) {
    if (content[i]! >= 0x80) continue;
    if (content[start] === 0x80) throw derError("OBJECT IDENTIFIER arc not in its shortest form", offset);
    let arc = i - start < 6 ? decodeSmallArc(content, start, i) : decodeArc(content, start, i);
    if (start === 0) {
      const first = arc < 40 ? 0 : arc < 80 ? 1 : 2;
      arcs.push(first.toString());
      arc = typeof arc === "bigint" ? arc - 80n : arc - first * 40;
    }
    arcs.push(arc.toString());
    start = i + 1;
  }
  return arcs.join(".");
}

/** Up to 42 bits: exact as a number. */
function decodeSmallArc(content: Uint8Array, start: number, end: number): number | bigint {
  let arc = 0;
  for (let i = start; i <= end; i++) arc = arc * 128 + (content[i]! & 0x7f);
  return arc;
}

/** Of more than 42 bits, so always above 79 as a first arc. */
function decodeArc(content: Uint8Array, start: number, end: number): bigint {
  let arc = 0n;
  for (let i = start; i <= end; i++) arc = (arc << 7n) | BigInt(content[i]! & 0x7f);
  return arc;
}

function hex(octet: number): string {
  return `0x${octet.toString(16).padStart(2, "0")}`;
}
