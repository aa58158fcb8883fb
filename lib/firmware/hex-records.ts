import { CountersignError } from "../domain/errors.ts";

/**
 * Intel HEX, read record by record with its place in the file kept, so that a writer can leave every line as it is.
 * Strict where readers disagree: an offset that wraps at 64 KiB, two records for one address and anything that isn't a
 * record are refused.
 */

export const DATA = 0;
export const END_OF_FILE = 1;
export const EXTENDED_SEGMENT = 2;
export const EXTENDED_LINEAR = 4;

/** Far above any microcontroller's image; HEX takes 2.8 bytes for each of the image's. */
export const MAX_HEX_BYTES = 32 << 20;
export const ADDRESS_SPACE = 2 ** 32;

/** What an address in a data record is added to. `none` (before any 02 or 04 record) counts as linear zero. */
export interface Base {
  readonly kind: "none" | "segment" | "linear";
  readonly address: number;
}

export interface HexRecord {
  readonly type: number;
  /** in the file, line ending included */
  readonly start: number;
  readonly end: number;
  readonly line: number;
  /** target address of data records */
  readonly address: number;
  /** data bytes */
  readonly length: number;
  /** of the data in `HexImage.data` */
  readonly dataAt: number;
  /** in effect after this record */
  readonly base: Base;
}

/** A contiguous run of target memory. */
export interface Segment {
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface HexImage {
  readonly records: readonly HexRecord[];
  /** sorted, apart, each as long as it can be */
  readonly segments: readonly Segment[];
  /** of the first line */
  readonly lineEnding: string;
}

const NIBBLE = new Uint8Array(256).fill(0xff);
for (let i = 0; i < 16; i++) {
  NIBBLE["0123456789ABCDEF".charCodeAt(i)] = i;
  NIBBLE["0123456789abcdef".charCodeAt(i)] = i;
}

const CR = 0x0d;
const LF = 0x0a;
const COLON = 0x3a;

/** @throws CountersignError `image-invalid` with the line in `details` */
export function parseHex(file: Uint8Array): HexImage {
  const data = new Uint8Array(file.length >> 1);
  const records: HexRecord[] = [];
  const bytes = new Uint8Array(260);
  let base: Base = { kind: "none", address: 0 };
  let dataAt = 0;
  let ended = false;
  let line = 0;
  let lineEnding: string | undefined;

  for (let at = 0; at < file.length;) {
    line++;
    const start = at;
    while (at < file.length && file[at] !== CR && file[at] !== LF) at++;
    const stop = trimEnd(file, start, at);
    const endingAt = at;
    if (file[at] === CR) at++;
    if (file[at] === LF) at++;
    lineEnding ??= String.fromCharCode(...file.subarray(endingAt, at));
    if (stop === start) continue;

    if (ended) throw invalid(line, "there is something behind the end-of-file record");
    const count = decodeLine(file, start, stop, bytes, line);
    const offset = bytes[1]! * 256 + bytes[2]!;
    const type = bytes[3]!;
    let address = 0;
    if (type === DATA) {
      address = base.address + offset;
      if (base.kind === "segment" ? offset + count > 0x10000 : address + count > ADDRESS_SPACE) {
        throw invalid(line, "the record's data runs past the end of its segment, where readers disagree");
      }
      data.set(bytes.subarray(4, 4 + count), dataAt);
    } else {
      const expected = [0, 0, 2, 4, 2, 4][type];
      if (expected === undefined) throw invalid(line, `record type ${type} is none of Intel's (0 to 5)`);
      if (count !== expected) throw invalid(line, `a type ${type} record holds ${expected} bytes, this one ${count}`);
      const value = bytes[4]! * 256 + bytes[5]!;
      if (type === EXTENDED_SEGMENT) base = { kind: "segment", address: value * 16 };
      if (type === EXTENDED_LINEAR) base = { kind: "linear", address: value * 0x10000 };
      ended = type === END_OF_FILE;
    }
    records.push({ type, start, end: at, line, address, length: type === DATA ? count : 0, dataAt, base });
    if (type === DATA) dataAt += count;
  }
  if (!ended) throw invalid(line, "the end-of-file record is missing: the file is cut off");
  return { records, segments: toSegments(records, data), lineEnding: lineEnding || "\n" };
}

/** A record's line without its ending, upper case. */
export function formatRecord(type: number, offset: number, data: Uint8Array): string {
  const bytes = [data.length, (offset >> 8) & 0xff, offset & 0xff, type, ...data];
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  return ":" + [...bytes, -sum & 0xff].map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join("");
}

/** Whether `line` (no line ending) is a whole record with a right checksum. */
export function isRecord(line: Uint8Array): boolean {
  try {
    decodeLine(line, 0, trimEnd(line, 0, line.length), new Uint8Array(260), 1);
    return true;
  } catch {
    return false;
  }
}

/** Decodes count, offset, type, data and checksum into `into`; returns the count. */
function decodeLine(file: Uint8Array, start: number, stop: number, into: Uint8Array, line: number): number {
  if (file[start] !== COLON) throw invalid(line, "the line doesn't start with a colon");
  const digits = stop - start - 1;
  if (digits < 10) throw invalid(line, "the record is cut off");
  const count = byteAt(file, start + 1, line);
  const total = count + 5;
  if (digits !== 2 * total) {
    throw invalid(line, `the record should have ${2 * total} digits for its ${count} data bytes and has ${digits}`);
  }
  let sum = 0;
  for (let i = 0; i < total; i++) {
    const byte = byteAt(file, start + 1 + 2 * i, line);
    into[i] = byte;
    sum += byte;
  }
  if ((sum & 0xff) !== 0) throw invalid(line, "the record's checksum is wrong");
  return count;
}

function byteAt(file: Uint8Array, at: number, line: number): number {
  const high = NIBBLE[file[at]!]!;
  const low = NIBBLE[file[at + 1]!]!;
  if ((high | low) === 0xff || high > 15 || low > 15)
    throw invalid(line, "the record holds something else than hex digits");
  return high * 16 + low;
}

function trimEnd(file: Uint8Array, start: number, end: number): number {
  while (end > start && (file[end - 1] === 0x20 || file[end - 1] === 0x09)) end--;
  return end;
}

function toSegments(records: readonly HexRecord[], data: Uint8Array): Segment[] {
  const blocks = records.filter(({ length }) => length > 0);
  if (blocks.some((block, i) => i > 0 && block.address < blocks[i - 1]!.address)) {
    blocks.sort((a, b) => a.address - b.address);
  }
  const segments: Segment[] = [];
  for (let first = 0; first < blocks.length;) {
    let last = first;
    let end = blocks[first]!.address + blocks[first]!.length;
    for (; last + 1 < blocks.length && blocks[last + 1]!.address <= end; last++) {
      const next = blocks[last + 1]!;
      if (next.address < end) {
        throw invalid(next.line, `address 0x${next.address.toString(16).toUpperCase()} is written twice`);
      }
      end += next.length;
    }
    const { address } = blocks[first]!;
    const bytes = new Uint8Array(end - address);
    for (let i = first; i <= last; i++) {
      const block = blocks[i]!;
      bytes.set(data.subarray(block.dataAt, block.dataAt + block.length), block.address - address);
    }
    segments.push({ address, bytes });
    first = last + 1;
  }
  return segments;
}

function invalid(line: number, why: string): CountersignError {
  return new CountersignError("image-invalid", `the Intel HEX image is broken in line ${line}: ${why}`, {
    details: { line },
  });
}
