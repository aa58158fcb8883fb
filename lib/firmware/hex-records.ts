import { CountersignError } from "../domain/errors.ts";
import { ADDRESS_SPACE, toSegments, type Segment } from "./memory.ts";

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
  /** in effect after this record */
  readonly base: Base;
}

export interface HexImage {
  readonly records: readonly HexRecord[];
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
  const records: HexRecord[] = [];
  const { segments, lineEnding } = walk(file, (record) => records.push(record));
  return { records, segments, lineEnding };
}

/** The target memory alone, as strictly read. @throws CountersignError as `parseHex` */
export function hexMemory(file: Uint8Array): Segment[] {
  return walk(file).segments;
}

/** `keep` is called for every record; without it none is made. */
function walk(file: Uint8Array, keep?: (record: HexRecord) => void): { segments: Segment[]; lineEnding: string } {
  const data = new Uint8Array(file.length >> 1);
  const pieces: Piece[] = [];
  let piece: Piece | undefined;
  let base: Base = { kind: "none", address: 0 };
  let dataEnd = 0;
  let ended = false;
  let line = 0;
  let lineEnding: string | undefined;

  for (let at = 0; at < file.length;) {
    line++;
    const start = at;
    at = lineEnd(file, start);
    const stop = trimEnd(file, start, at);
    const endingAt = at;
    if (file[at] === CR) at++;
    if (file[at] === LF) at++;
    lineEnding ??= String.fromCharCode(...file.subarray(endingAt, at));
    if (stop === start) continue;

    if (ended) throw invalid(line, "there is something behind the end-of-file record");
    const header = decodeLine(file, start, stop, data, dataEnd, line);
    const count = header >>> 24;
    const offset = (header >>> 8) & 0xffff;
    const type = header & 0xff;
    let address = 0;
    if (type === DATA) {
      address = base.address + offset;
      if (base.kind === "segment" ? offset + count > 0x10000 : address + count > ADDRESS_SPACE) {
        throw invalid(line, "the record's data runs past the end of its segment, where readers disagree");
      }
      if (piece !== undefined && piece.address + piece.length === address) piece.length += count;
      else if (count > 0) pieces.push((piece = { address, dataAt: dataEnd, length: count, line }));
    } else {
      const expected = [0, 0, 2, 4, 2, 4][type];
      if (expected === undefined) throw invalid(line, `record type ${type} is none of Intel's (0 to 5)`);
      if (count !== expected) throw invalid(line, `a type ${type} record holds ${expected} bytes, this one ${count}`);
      const value = data[dataEnd]! * 256 + data[dataEnd + 1]!;
      if (type === EXTENDED_SEGMENT) base = { kind: "segment", address: value * 16 };
      if (type === EXTENDED_LINEAR) base = { kind: "linear", address: value * 0x10000 };
      ended = type === END_OF_FILE;
    }
    keep?.({ type, start, end: at, line, address, length: type === DATA ? count : 0, base });
    if (type === DATA) dataEnd += count;
  }
  if (!ended) throw invalid(line, "the end-of-file record is missing: the file is cut off");
  const segments = toSegments(
    pieces.map(({ address, dataAt, length }) => ({ address, bytes: data.subarray(dataAt, dataAt + length) })),
    (i, address) =>
      invalid(pieces[i]!.line, `address 0x${address.toString(16).toUpperCase()} is written twice, there or before`),
  );
  return { segments, lineEnding: lineEnding || "\n" };
}

/** Records that follow each other in memory too. */
interface Piece {
  readonly address: number;
  readonly dataAt: number;
  length: number;
  /** of its first record */
  readonly line: number;
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
    decodeLine(line, 0, trimEnd(line, 0, line.length), new Uint8Array(256), 0, 1);
    return true;
  } catch {
    return false;
  }
}

/** Decodes a record's data to `into[at...]`; returns its first four bytes: count, offset (two), type. */
function decodeLine(file: Uint8Array, start: number, stop: number, into: Uint8Array, at: number, line: number): number {
  if (file[start] !== COLON) throw invalid(line, "the line doesn't start with a colon");
  const digits = stop - start - 1;
  if (digits < 10) throw invalid(line, "the record is cut off");
  const count = NIBBLE[file[start + 1]!]! * 16 + NIBBLE[file[start + 2]!]!;
  let wrong = NIBBLE[file[start + 1]!]! | NIBBLE[file[start + 2]!]!;
  if (wrong < 16 && digits !== 2 * (count + 5)) {
    throw invalid(
      line,
      `the record should have ${2 * (count + 5)} digits for its ${count} data bytes and has ${digits}`,
    );
  }
  let sum = count;
  let header = count;
  let from = start + 3;
  for (let i = 0; i < 3; i++, from += 2) {
    const high = NIBBLE[file[from]!]!;
    const low = NIBBLE[file[from + 1]!]!;
    wrong |= high | low;
    header = ((header << 8) | (high * 16 + low)) >>> 0;
    sum += high * 16 + low;
  }
  for (const end = at + count; wrong < 16 && at < end; at++, from += 2) {
    const high = NIBBLE[file[from]!]!;
    const low = NIBBLE[file[from + 1]!]!;
    wrong |= high | low;
    into[at] = high * 16 + low;
    sum += high * 16 + low;
  }
  const high = NIBBLE[file[from]!]!;
  const low = NIBBLE[file[from + 1]!]!;
  if ((wrong | high | low) > 15) throw invalid(line, "the record holds something else than hex digits");
  if (((sum + high * 16 + low) & 0xff) !== 0) throw invalid(line, "the record's checksum is wrong");
  return header;
}

/** A whole record says itself where it ends; only other lines are searched. */
function lineEnd(file: Uint8Array, start: number): number {
  const end = start + 11 + 2 * (NIBBLE[file[start + 1]!]! * 16 + NIBBLE[file[start + 2]!]!);
  if (file[end] === LF || file[end] === CR) return end;
  let at = start;
  while (at < file.length && file[at] !== CR && file[at] !== LF) at++;
  return at;
}

function trimEnd(file: Uint8Array, start: number, end: number): number {
  while (end > start && (file[end - 1] === 0x20 || file[end - 1] === 0x09)) end--;
  return end;
}

function invalid(line: number, why: string): CountersignError {
  return new CountersignError("image-invalid", `the Intel HEX image is broken in line ${line}: ${why}`, {
    details: { line },
  });
}
