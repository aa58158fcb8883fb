import { equalBytes } from "../domain/bytes.ts";
import type { Patch, RangeReader } from "./format.ts";
import { PieceReader } from "./reader.ts";

const BLOCK = 1 << 20;

/** A copy of `image` with the patches applied. @throws RangeError when they aren't sorted, overlap or leave the image */
export function applyPatches(image: Uint8Array, patches: readonly Patch[]): Uint8Array {
  const out = new Uint8Array(patchedSize(image.length, patches));
  let from = 0;
  let to = 0;
  for (const patch of patches) {
    const kept = image.subarray(from, patch.offset);
    out.set(kept, to);
    out.set(patch.insert, to + kept.length);
    to += kept.length + patch.insert.length;
    from = patch.offset + patch.remove;
  }
  out.set(image.subarray(from), to);
  return out;
}

/** Equal bytes between two changes that aren't worth a patch of their own. */
const BRIDGE = 16;

/** What makes `after` of `before`, two pieces of the same size that begin at `offset` of an image. */
export function patchesBetween(before: Uint8Array, after: Uint8Array, offset = 0): Patch[] {
  const patches: Patch[] = [];
  for (let at = 0; at < before.length; at++) {
    if (before[at] === after[at]) continue;
    let end = at + 1;
    for (let i = end; i < before.length && i < end + BRIDGE; i++) if (before[i] !== after[i]) end = i + 1;
    patches.push({ offset: offset + at, remove: end - at, insert: after.slice(at, end) });
    at = end;
  }
  return patches;
}

/** The size in bytes of an image after its patches. @throws RangeError as `applyPatches` */
export function patchedSize(size: number, patches: readonly Patch[]): number {
  let end = 0;
  let out = size;
  for (const patch of patches) {
    if (patch.offset < end || patch.remove < 0 || patch.offset + patch.remove > size) {
      throw new RangeError("patches must be sorted, apart and inside the image");
    }
    end = patch.offset + patch.remove;
    out += patch.insert.length - patch.remove;
  }
  return out;
}

/**
 * Compares every byte that no patch touches, block by block.
 * @returns the offset in the written image of the first block that differs, or undefined when all are the same
 */
export async function differenceOutsidePatches(
  original: RangeReader,
  written: RangeReader,
  patches: readonly Patch[],
): Promise<number | undefined> {
  if (written.size !== patchedSize(original.size, patches)) return Math.min(original.size, written.size);
  const [before, after] = [new PieceReader(original), new PieceReader(written)];
  let from = 0;
  let to = 0;
  for (const patch of [...patches, { offset: original.size, remove: 0, insert: new Uint8Array(0) }]) {
    while (from < patch.offset) {
      const length = Math.min(BLOCK, patch.offset - from);
      const [a, b] = [await before.read(from, length), await after.read(to, length)];
      if (!equalBytes(a, b)) return to;
      from += length;
      to += length;
    }
    from += patch.remove;
    to += patch.insert.length;
  }
  return undefined;
}
