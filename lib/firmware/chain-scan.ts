import { CountersignError } from "../domain/errors.ts";
import { findChains, MAX_CHAIN_BYTES, type FoundChain } from "./chain.ts";
import type { RangeReader } from "./format.ts";
import { PieceReader } from "./reader.ts";

const CHUNK = 1 << 20;
/** Trust anchors of a whole file system can be many; of chains for devices more than one settles the matter. */
const MAX_FOUND = 256;

/**
 * Every run of PEM certificates in an image of any size, as `findChains` finds them, in pieces.
 * @throws CountersignError `image-chain-ambiguous` above 256 of them
 */
export async function scanChains(reader: RangeReader): Promise<FoundChain[]> {
  const found: FoundChain[] = [];
  const pieces = new PieceReader(reader);
  for (let from = 0; from < reader.size;) {
    // One byte before shows what stands in front; what starts in this piece may end behind it.
    const before = Math.min(from, 1);
    const memory = await pieces.read(from - before, before + CHUNK + MAX_CHAIN_BYTES);
    let next = from + CHUNK;
    for (const one of findChains(memory, from - before)) {
      if (one.address < from || one.address >= next) continue;
      // A copy: a view would keep the whole piece in memory.
      found.push({ ...one, bytes: one.bytes.slice() });
      next = Math.max(next, one.address + one.bytes.length);
      if (found.length > MAX_FOUND) {
        throw new CountersignError(
          "image-chain-ambiguous",
          `the image holds more than ${MAX_FOUND} runs of certificates, and which is the device's can't be told; ` +
            "give --offset to say so",
        );
      }
    }
    from = next;
  }
  return found;
}
