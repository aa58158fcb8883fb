import type { Patch } from "./format.ts";

/** What writers of text formats with one record a line share. */

interface DataRecord {
  /** target address of data records */
  readonly address: number;
  /** data bytes; 0 for what isn't data */
  readonly length: number;
}

/** The index before the line that comes next in address order; behind all data where the image isn't in order. */
export function insertionPoint(records: readonly DataRecord[], offset: number): number {
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
export function usualLength(records: readonly DataRecord[], otherwise: number): number {
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
export function splitLines(bytes: Uint8Array): Uint8Array[] {
  const lines: Uint8Array[] = [];
  let start = 0;
  for (let at = 0; at <= bytes.length; at++) {
    if (at < bytes.length && bytes[at] !== 0x0a && bytes[at] !== 0x0d) continue;
    lines.push(bytes.subarray(start, at));
    start = at + 1;
  }
  return lines;
}
