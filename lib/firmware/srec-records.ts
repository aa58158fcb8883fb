import { CountersignError } from "../domain/errors.ts";
import type { Segment } from "./memory.ts";
import { hexDigits, NIBBLE, RecordMemory, trimEnd, walkLines, type RecordLine } from "./record-lines.ts";

/**
 * Motorola S-records, read record by record with their places in the file kept, so that a writer can leave every line as
 * it is. S0 is a header, S1 to S3 data with addresses of 2 to 4 bytes, S5 and S6 say how many data records there are,
 * S7 to S9 end the file with a start address.
 */

export interface SrecImage {
  readonly records: readonly RecordLine[];
  readonly segments: readonly Segment[];
  /** of the first line */
  readonly lineEnding: string;
}

/** Bytes of a record's address by its type; 0: no such type. */
const ADDRESS_BYTES = [2, 2, 3, 4, 0, 2, 3, 4, 3, 2] as const;
const END = 7;

const S = 0x53;
/** S, type and count; the count has all that follows. */
const LINE = { mark: S, countAt: 2, fixed: 4 };

export function isData(type: number): boolean {
  return type >= 1 && type <= 3;
}

export function isCount(type: number): boolean {
  return type === 5 || type === 6;
}

/** @throws CountersignError `image-invalid` with the line in `details` */
export function parseSrec(file: Uint8Array): SrecImage {
  const records: RecordLine[] = [];
  return { records, ...walk(file, (record) => records.push(record)) };
}

/** The target memory alone, as strictly read. @throws CountersignError as `parseSrec` */
export function srecMemory(file: Uint8Array): readonly Segment[] {
  return walk(file).segments;
}

/** `keep` is called for every record; without it none is made. */
function walk(file: Uint8Array, keep?: (record: RecordLine) => void): Omit<SrecImage, "records"> {
  const memory = new RecordMemory(file, invalid);
  let dataRecords = 0;
  let ended = false;

  const { lines, lineEnding } = walkLines(file, LINE, invalid, (start, stop, end, line) => {
    if (ended) throw invalid(line, "there is something behind the record that ends the file");
    const { type, address, length } = decode(file, start, stop, memory.data, memory.end, line);
    if (isData(type)) {
      if (address + length > addressLimit(type)) {
        throw invalid(line, "the record's data runs past the last address that its type has");
      }
      dataRecords++;
      memory.add(address, length, line);
    } else if (isCount(type) && address !== dataRecords) {
      throw invalid(line, `it counts ${address} data records, there are ${dataRecords}: the file isn't whole`);
    }
    ended = type >= END;
    keep?.({ type, start, end, line, address, length: isData(type) ? length : 0 });
  });
  if (!ended) throw invalid(lines, "the record that ends the file (S7, S8 or S9) is missing: the file is cut off");
  return { segments: memory.segments(), lineEnding };
}

/** A record's line without its ending, upper case. `address` is the count for S5 and S6. */
export function formatSrecord(type: number, address: number, data: Uint8Array): string {
  const addressBytes = ADDRESS_BYTES[type]!;
  const bytes = [addressBytes + data.length + 1];
  for (let i = addressBytes - 1; i >= 0; i--) bytes.push(Math.floor(address / 2 ** (8 * i)) & 0xff);
  bytes.push(...data);
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  bytes.push(~sum & 0xff);
  return `S${type}` + hexDigits(bytes);
}

/** The largest address that a data record of this type can have. */
export function addressLimit(type: number): number {
  return 2 ** (8 * ADDRESS_BYTES[type]!);
}

/** The most data bytes that a record of this type holds. */
export function maxLength(type: number): number {
  return 0xff - ADDRESS_BYTES[type]! - 1;
}

/** Whether `line` (no line ending) is a whole record with a right checksum. */
export function isSrecord(line: Uint8Array): boolean {
  try {
    decode(line, 0, trimEnd(line, 0, line.length), new Uint8Array(256), 0, 1);
    return true;
  } catch {
    return false;
  }
}

/** Decodes a record's data to `into[at...]`. */
function decode(
  file: Uint8Array,
  start: number,
  stop: number,
  into: Uint8Array,
  at: number,
  line: number,
): { type: number; address: number; length: number } {
  const type = NIBBLE[file[start + 1] ?? 0]!;
  const addressBytes = ADDRESS_BYTES[type] ?? 0;
  if (file[start] !== S || addressBytes === 0) throw invalid(line, "the line doesn't start with S0 to S3 or S5 to S9");
  const digits = stop - start - 2;
  if (digits < 8 || digits % 2 !== 0) throw invalid(line, "the record is cut off");
  let wrong = 0;
  let sum = 0;
  let address = 0;
  const total = digits / 2;
  const dataFrom = start + 4 + 2 * addressBytes;
  for (let from = start + 2; from < stop; from += 2) {
    const high = NIBBLE[file[from]!]!;
    const low = NIBBLE[file[from + 1]!]!;
    wrong |= high | low;
    const byte = high * 16 + low;
    sum += byte;
    if (from >= dataFrom) into[at++] = byte;
    else if (from > start + 2) address = address * 256 + byte;
    else if (wrong < 16 && byte !== total - 1) {
      throw invalid(line, `the record should have ${byte} bytes behind its count and has ${total - 1}`);
    }
  }
  if (wrong > 15) throw invalid(line, "the record holds something else than hex digits");
  const length = total - 2 - addressBytes;
  if (length < 0) throw invalid(line, "the record is too short for its address");
  if ((sum & 0xff) !== 0xff) throw invalid(line, "the record's checksum is wrong");
  return { type, address, length };
}

function invalid(line: number, why: string): CountersignError {
  return new CountersignError("image-invalid", `the S-record image is broken in line ${line}: ${why}`, {
    details: { line },
  });
}
