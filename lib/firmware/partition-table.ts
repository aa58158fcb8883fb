import { md5 } from "@noble/hashes/legacy.js";
import { equalBytes, fromUtf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { RangeReader } from "./format.ts";
import { hex, range } from "./hexadecimal.ts";
import { readUpTo } from "./reader.ts";

/** The partition table of an ESP flash: 32-byte entries, closed by an MD5 over them or by erased flash. */

const SIZE = 0xc00;
const ENTRY = 32;
/** At 0x8000 unless the bootloader is larger; it always begins a sector. */
const FIRST_SECTOR = 0x8000;
const LAST_SECTOR = 0x20000;
const SECTOR = 0x1000;
const ENCRYPTED = 1;

export interface EspPartition {
  readonly type: number;
  readonly subtype: number;
  readonly offset: number;
  readonly size: number;
  readonly label: string;
  readonly encrypted: boolean;
}

export interface EspPartitionTable {
  readonly offset: number;
  readonly partitions: readonly EspPartition[];
}

/**
 * The table of a flash image.
 * @param at its offset; without it every sector that may hold one is looked at
 * @throws CountersignError `image-invalid`
 */
export async function readPartitionTable(reader: RangeReader, at?: number): Promise<EspPartitionTable> {
  for (let offset = at ?? FIRST_SECTOR; offset <= (at ?? LAST_SECTOR); offset += SECTOR) {
    const bytes = await readUpTo(reader, offset, SIZE);
    if (bytes[0] === 0xaa && bytes[1] === 0x50) return { offset, partitions: parse(bytes, offset, reader.size) };
  }
  const where = at === undefined ? "from 0x8000 on" : `at ${hex(at)}`;
  throw new CountersignError(
    "image-invalid",
    `the flash image holds no partition table ${where}; give the image of a whole flash, from address 0`,
  );
}

function parse(bytes: Uint8Array, tableAt: number, flashSize: number): EspPartition[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const partitions: EspPartition[] = [];
  for (let at = 0; ; at += ENTRY) {
    if (at + ENTRY > bytes.length) throw invalid(tableAt, "it is cut off");
    const entry = bytes.subarray(at, at + ENTRY);
    if (entry[0] === 0xeb && entry[1] === 0xeb) {
      if (!equalBytes(entry.subarray(16), md5(bytes.subarray(0, at)))) throw invalid(tableAt, "its MD5 is wrong");
      break;
    }
    if (entry.every((byte) => byte === 0xff)) break;
    if (entry[0] !== 0xaa || entry[1] !== 0x50) throw invalid(tableAt, `its entry ${at / ENTRY} has no magic`);
    const label = entry.subarray(12, 28);
    const end = label.indexOf(0);
    partitions.push({
      type: entry[2]!,
      subtype: entry[3]!,
      offset: view.getUint32(at + 4, true),
      size: view.getUint32(at + 8, true),
      label: text(label.subarray(0, end < 0 ? 16 : end), tableAt),
      encrypted: (view.getUint32(at + 28, true) & ENCRYPTED) !== 0,
    });
  }
  checkApart(partitions, tableAt, flashSize);
  return partitions;
}

function checkApart(partitions: readonly EspPartition[], tableAt: number, flashSize: number): void {
  let end = tableAt + SECTOR;
  let before = "the table itself";
  for (const { label, offset, size } of partitions.toSorted((a, b) => a.offset - b.offset)) {
    if (offset < end) throw invalid(tableAt, `its partition ${JSON.stringify(label)} overlaps ${before}`);
    end = offset + size;
    before = `the partition ${JSON.stringify(label)}`;
  }
  if (flashSize > 2 ** 32) throw invalid(tableAt, "the image is larger than any ESP flash");
}

/** @throws CountersignError `image-region-missing` when the image ends before the partition does */
export function checkInside({ label, offset, size }: EspPartition, flashSize: number): void {
  if (offset + size <= flashSize) return;
  throw new CountersignError(
    "image-region-missing",
    `the partition ${JSON.stringify(label)} at ${range(offset, size)} is behind the image's end (${hex(flashSize)}); ` +
      "give the image of a whole flash",
    { details: { offset, size, image: flashSize } },
  );
}

function text(bytes: Uint8Array, tableAt: number): string {
  try {
    return fromUtf8(bytes);
  } catch (cause) {
    throw new CountersignError("image-invalid", `the partition table at ${hex(tableAt)} has a label that is no text`, {
      cause,
    });
  }
}

function invalid(tableAt: number, why: string): CountersignError {
  return new CountersignError("image-invalid", `the partition table at ${hex(tableAt)} is broken: ${why}`, {
    details: { offset: tableAt },
  });
}
