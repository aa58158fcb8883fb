import { CountersignError } from "../domain/errors.ts";
import type { FoundChain } from "./chain.ts";
import type { Patch, RangeReader } from "./format.ts";
import { hex } from "./hexadecimal.ts";
import { toSegments, type Segment } from "./memory.ts";
import { readUpTo } from "./reader.ts";

/** What readers and writers of text formats with one record a line share; the records are the formats' affair. */

/** Far above any microcontroller's image; such a file takes some 2.8 bytes for each of the image's. */
export const MAX_RECORDS_BYTES = 32 << 20;
/** Whole images have records of 16 bytes or more, and few gaps: each costs memory of its own. */
const MAX_LINES = 1 << 20;
const MAX_PIECES = 1 << 16;

/** The format's refusal. */
type Invalid = (line: number, why: string) => CountersignError;

/** A record with its place in the file, so that a writer can leave every other line as it is. */
export interface RecordLine {
  readonly type: number;
  /** in the file, line ending included */
  readonly start: number;
  readonly end: number;
  readonly line: number;
  /** target address of data records */
  readonly address: number;
  /** data bytes; 0 for what isn't data */
  readonly length: number;
}

/** The value of a hex digit's character code; 0xff for any other. */
export const NIBBLE = new Uint8Array(256).fill(0xff);
for (let i = 0; i < 16; i++) {
  NIBBLE["0123456789ABCDEF".charCodeAt(i)] = i;
  NIBBLE["0123456789abcdef".charCodeAt(i)] = i;
}

/** Upper case, two digits a byte. */
export function hexDigits(bytes: readonly number[]): string {
  return bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join("");
}

const CR = 0x0d;
const LF = 0x0a;

/** Where a record says how long its line is: two digits at `countAt`; the line has `fixed` characters and two a count. */
export interface LineLength {
  /** what records begin with: no other line says anything */
  readonly mark: number;
  readonly countAt: number;
  readonly fixed: number;
}

/**
 * Calls `visit` for each line that holds something: [start, stop) without blanks and ending, `end` behind the ending.
 * @returns how many lines there are, and the first one's ending
 * @throws what `invalid` makes of too many lines
 */
export function walkLines(
  file: Uint8Array,
  { mark, countAt, fixed }: LineLength,
  invalid: Invalid,
  visit: (start: number, stop: number, end: number, line: number) => void,
): { lines: number; lineEnding: string } {
  let lines = 0;
  let lineEnding: string | undefined;
  for (let at = 0; at < file.length;) {
    if (++lines > MAX_LINES) throw invalid(lines, `the file has more than ${MAX_LINES} lines`);
    const start = at;
    // A whole record says itself where it ends; only other lines are searched.
    const count = NIBBLE[file[start + countAt]!]! * 16 + NIBBLE[file[start + countAt + 1]!]!;
    if (file[start] === mark) at += fixed + 2 * count;
    if (at === start || (file[at] !== LF && file[at] !== CR)) {
      at = start;
      while (at < file.length && file[at] !== CR && file[at] !== LF) at++;
    }
    const endingAt = at;
    if (file[at] === CR) at++;
    if (file[at] === LF) at++;
    lineEnding ??= String.fromCharCode(...file.subarray(endingAt, at));
    const stop = trimEnd(file, start, endingAt);
    if (stop > start) visit(start, stop, at, lines);
  }
  return { lines, lineEnding: lineEnding || "\n" };
}

export function trimEnd(file: Uint8Array, start: number, end: number): number {
  while (end > start && (file[end - 1] === 0x20 || file[end - 1] === 0x09)) end--;
  return end;
}

/** Whether the image begins with a line that `isRecord`. Reads 1 KiB. */
export async function startsWithRecord(reader: RangeReader, isRecord: (line: Uint8Array) => boolean): Promise<boolean> {
  const lines = splitLines(await readUpTo(reader, 0, 1024));
  const first = lines.find((line) => line.some((byte) => byte !== 0x20 && byte !== 0x09));
  return first !== undefined && isRecord(first);
}

/** Target memory from data records in any order: their data lies in `data`, one record behind the other. */
export class RecordMemory {
  readonly data: Uint8Array;
  /** where the next record's data goes */
  end = 0;
  /** records that follow each other in memory too; the line is the first one's */
  readonly #pieces: { readonly address: number; readonly at: number; length: number; readonly line: number }[] = [];

  readonly #invalid: Invalid;

  constructor(file: Uint8Array, invalid: Invalid) {
    this.data = new Uint8Array(file.length >> 1);
    this.#invalid = invalid;
  }

  /** Takes the `length` bytes at `end`. @throws as the format for memory in too many pieces */
  add(address: number, length: number, line: number): void {
    const last = this.#pieces.at(-1);
    if (last !== undefined && last.address + last.length === address) last.length += length;
    else if (length > 0) this.#pieces.push({ address, at: this.end, length, line });
    this.end += length;
    if (this.#pieces.length <= MAX_PIECES) return;
    throw this.#invalid(line, `the data lies in more than ${MAX_PIECES} places`);
  }

  /** @throws as the format for an address that is written twice */
  segments(): Segment[] {
    return toSegments(
      this.#pieces.map(({ address, at, length }) => ({ address, bytes: this.data.subarray(at, at + length) })),
      (i, address) => this.#invalid(this.#pieces[i]!.line, `address ${hex(address)} is written twice, there or before`),
    );
  }
}

/** The lines that hold a chain. @throws CountersignError `image-region-overlap` when one holds other data too */
export function linesHolding<R extends RecordLine>(records: readonly R[], found: FoundChain | undefined): R[] {
  if (found === undefined) return [];
  const end = found.address + found.bytes.length;
  const lines = records.filter(
    (record) => record.length > 0 && record.address < end && record.address + record.length > found.address,
  );
  for (const record of lines) {
    if (record.address >= found.address && record.address + record.length <= end) continue;
    throw new CountersignError(
      "image-region-overlap",
      `line ${record.line} of the image holds part of the old chain together with other data; ` +
        "start from an image without a chain",
      { details: { line: record.line } },
    );
  }
  return lines;
}

export function removals(lines: readonly RecordLine[]): Patch[] {
  return lines.map(({ start, end }) => ({ offset: start, remove: end - start, insert: new Uint8Array(0) }));
}

/** The index before the line that comes next in address order; behind all data where the image isn't in order. */
export function insertionPoint(records: readonly RecordLine[], offset: number): number {
  let last = -1;
  let lastBelow = -1;
  let sorted = true;
  for (let i = 0; i < records.length; i++) {
    const record = records[i]!;
    if (record.length === 0) continue;
    if (last >= 0 && record.address < records[last]!.address) sorted = false;
    if (record.address < offset) lastBelow = i;
    last = i;
  }
  return (sorted ? lastBelow : last) + 1;
}

/** The image's most frequent data length: loaders are tested with it. */
export function usualLength(records: readonly RecordLine[], otherwise: number): number {
  const counts = new Uint32Array(256);
  for (const { length } of records) counts[length]!++;
  counts[0] = 0;
  const most = counts.indexOf(Math.max(...counts));
  return most > 0 ? most : otherwise;
}

/** A removal that follows a patch directly becomes part of it. */
export function mergeTouching(patches: readonly Patch[]): Patch[] {
  const merged: Patch[] = [];
  for (const patch of patches) {
    const last = merged.at(-1);
    if (last !== undefined && last.offset + last.remove === patch.offset && patch.insert.length === 0) {
      merged[merged.length - 1] = { ...last, remove: last.remove + patch.remove };
    } else merged.push(patch);
  }
  return merged;
}

/** Lines without their endings (LF, CR or both, which leaves an empty line between). */
function splitLines(bytes: Uint8Array): Uint8Array[] {
  const lines: Uint8Array[] = [];
  let start = 0;
  for (let at = 0; at <= bytes.length; at++) {
    if (at < bytes.length && bytes[at] !== 0x0a && bytes[at] !== 0x0d) continue;
    lines.push(bytes.subarray(start, at));
    start = at + 1;
  }
  return lines;
}
