import { equalBytes } from "../domain/bytes.ts";
import type { Patch, RangeReader } from "./format.ts";
import { readUpTo } from "./reader.ts";

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
  let from = 0;
  let to = 0;
  for (const patch of [...patches, { offset: original.size, remove: 0, insert: new Uint8Array(0) }]) {
    while (from < patch.offset) {
      const length = Math.min(BLOCK, patch.offset - from);
      const [a, b] = [await readUpTo(original, from, length), await readUpTo(written, to, length)];
      if (!equalBytes(a, b)) return to;
      from += length;
      to += length;
    }
    from += patch.remove;
    to += patch.insert.length;
  }
  return undefined;
}
