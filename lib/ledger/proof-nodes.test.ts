import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { utf8 } from "../domain/bytes.ts";
import { ProofReader, ProofWriter } from "./proof-nodes.ts";
import { inclusionProof, leafHash, rootOf } from "./tree.ts";

const leaves = Array.from({ length: 70 }, (_, i) => leafHash(utf8(`leaf ${i}`)));

describe("proofs of several leaves", () => {
  it("hold for any leaves in any order, and have no hash more than once", () => {
    const trees = fc.integer({ min: 1, max: 70 }).chain((size) =>
      fc.record({
        size: fc.constant(size),
        order: fc.uniqueArray(fc.nat({ max: size - 1 }), { minLength: 1, maxLength: 12 }),
      }),
    );
    fc.assert(
      fc.property(trees, fc.nat(), ({ size, order }, spoil) => {
        const tree = leaves.slice(0, size);
        const writer = new ProofWriter(size);
        const rests = order.map((index) => writer.cut(index, inclusionProof(tree, index)));
        const reader = new ProofReader(size, rootOf(tree));
        for (const [i, index] of order.entries()) expect(reader.verify(tree[index]!, index, rests[i]!)).toBe(true);
        const all = rests.flat();
        expect(new Set(all.map((hash) => hash.join())).size).toBe(all.length);

        // One wrong leaf, hash or index, one hash too many or too few: no, and nothing learnt from it.
        const at = spoil % order.length;
        const again = new ProofReader(size, rootOf(tree));
        for (const [i, index] of order.entries()) {
          const rest = rests[i]!;
          if (i === at) {
            expect(again.verify(leafHash(utf8("other")), index, rest)).toBe(false);
            expect(again.verify(tree[index]!, index, [...rest, tree[0]!])).toBe(false);
            expect(again.verify(tree[index]!, size, rest)).toBe(false);
            if (rest.length > 0) {
              expect(again.verify(tree[index]!, index, rest.slice(1))).toBe(false);
              expect(again.verify(tree[index]!, index, rest.with(0, new Uint8Array(32)))).toBe(false);
            }
          }
          expect(again.verify(tree[index]!, index, rest)).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });

  it("says of neighbours what one says already once", () => {
    const writer = new ProofWriter(64);
    expect(writer.cut(4, inclusionProof(leaves.slice(0, 64), 4))).toHaveLength(6);
    expect(writer.cut(5, inclusionProof(leaves.slice(0, 64), 5))).toHaveLength(0);
    expect(writer.cut(7, inclusionProof(leaves.slice(0, 64), 7))).toHaveLength(1);
  });
});
