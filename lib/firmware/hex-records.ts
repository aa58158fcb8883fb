import { CountersignError } from "../domain/errors.ts";
import { ADDRESS_SPACE, type Segment } from "./memory.ts";
import { hexDigits, NIBBLE, RecordMemory, trimEnd, walkLines, type RecordLine } from "./record-lines.ts";

/**
 * Intel HEX, read record by record with its place in the file kept, so that a writer can leave every line as it is.
 * Strict where readers disagree: an offset that wraps at 64 KiB, two records for one address and anything that isn't a
 * record are refused.
 */

export const DATA = 0;
export const END_OF_FILE = 1;
export const EXTENDED_SEGMENT = 2;
export const EXTENDED_LINEAR = 4;

/** What an address in a data record is added to. `none` (before any 02 or 04 record) counts as linear zero. */
export interface Base {
  readonly kind: "none" | "segment" | "linear";
  readonly address: number;
}

export interface HexRecord extends RecordLine {
  /** in effect after this record */
  readonly base: Base;
}

export interface HexImage {
  readonly records: readonly HexRecord[];
  readonly segments: readonly Segment[];
  /** of the first line */
  readonly lineEnding: string;
}

const COLON = 0x3a;
/** Colon, count, address, type and checksum. */
const LINE = { mark: COLON, countAt: 1, fixed: 11 };

/** @throws CountersignError `image-invalid` with the line in `details` */
export function parseHex(file: Uint8Array): HexImage {
  const records: HexRecord[] = [];
  const { segments, lineEnding } = walk(file, (record) => records.push(record));
  return { records, segments, lineEnding };
}

/** The target memory alone, as strictly read. @throws CountersignError as `parseHex` */
export function hexMemory(file: Uint8Array): readonly Segment[] {
  return walk(file).segments;
}

/** `keep` is called for every record; without it none is made. */
function walk(file: Uint8Array, keep?: (record: HexRecord) => void): Omit<HexImage, "records"> {
  const memory = new RecordMemory(file, invalid);
  const { data } = memory;
  let base: Base = { kind: "none", address: 0 };
  let ended = false;

  const { lines, lineEnding } = walkLines(file, LINE, invalid, (start, stop, end, line) => {
    if (ended) throw invalid(line, "there is something behind the end-of-file record");
    const header = decodeLine(file, start, stop, data, memory.end, line);
    const count = header >>> 24;
    const offset = (header >>> 8) & 0xffff;
    const type = header & 0xff;
    let address = 0;
    if (type === DATA) {
      address = base.address + offset;
      if (base.kind === "segment" ? offset + count > 0x10000 : address + count > ADDRESS_SPACE) {
        throw invalid(line, "the record's data runs past the end of its segment, where readers disagree");
      }
      memory.add(address, count, line);
    } else {
      const expected = [0, 0, 2, 4, 2, 4][type];
      if (expected === undefined) throw invalid(line, `record type ${type} is none of Intel's (0 to 5)`);
      if (count !== expected) throw invalid(line, `a type ${type} record holds ${expected} bytes, this one ${count}`);
      const value = data[memory.end]! * 256 + data[memory.end + 1]!;
      if (type === EXTENDED_SEGMENT) base = { kind: "segment", address: value * 16 };
      if (type === EXTENDED_LINEAR) base = { kind: "linear", address: value * 0x10000 };
      ended = type === END_OF_FILE;
    }
    keep?.({ type, start, end, line, address, length: type === DATA ? count : 0, base });
  });
  if (!ended) throw invalid(lines, "the end-of-file record is missing: the file is cut off");
  return { segments: memory.segments(), lineEnding };
}

/** A record's line without its ending, upper case. */
export function formatRecord(type: number, offset: number, data: Uint8Array): string {
  const bytes = [data.length, (offset >> 8) & 0xff, offset & 0xff, type, ...data];
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  return ":" + hexDigits([...bytes, -sum & 0xff]);
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

function invalid(line: number, why: string): CountersignError {
  return new CountersignError("image-invalid", `the Intel HEX image is broken in line ${line}: ${why}`, {
    details: { line },
  });
}
