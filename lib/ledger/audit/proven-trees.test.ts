import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fromHex, toHex, utf8 } from "../../domain/bytes.ts";
import { sha256 } from "../../domain/hash.ts";
import { inclusionProofs, leafHash, rootFromInclusion } from "../tree.ts";
import { ProvenTrees, type PlaceClaim } from "./proven-trees.ts";

function treeOf(size: number): PlaceClaim[] {
  const leaves = Array.from({ length: size }, (_, i) => leafHash(utf8(`item ${i}`)));
  const { root, paths } = inclusionProofs(leaves);
  return leaves.map((leaf, index) => ({
    leafHash: leaf,
    index,
    size,
    path: paths[index]!.map(toHex),
    root: toHex(root),
  }));
}

/** What the RFC's own walk says. */
function leads({ path, root, ...claim }: PlaceClaim): boolean {
  const found = rootFromInclusion({ ...claim, path: path.map(fromHex) });
  return found !== undefined && toHex(found) === root;
}

type Change = readonly [kind: number, at: number, by: number];

function changed(claim: PlaceClaim, [kind, at, by]: Change, others: readonly PlaceClaim[]): PlaceClaim {
  const other = others[at % others.length]!;
  const spot = at % Math.max(1, claim.path.length);
  switch (kind) {
    case 0:
      return { ...claim, index: other.index };
    case 1:
      return { ...claim, path: other.path };
    case 2:
      return { ...claim, leafHash: other.leafHash };
    case 3:
      return { ...claim, path: claim.path.with(spot, other.path[by % Math.max(1, other.path.length)] ?? claim.root) };
    case 4:
      return { ...claim, path: claim.path.slice(0, spot) };
    case 5:
      return { ...claim, path: [...claim.path, other.path[0] ?? claim.root] };
    case 6:
      return { ...claim, size: claim.size + (by % 5) - 2 };
    case 7:
      return { ...claim, root: toHex(other.leafHash) };
    case 8:
      return { ...claim, leafHash: fromHex(claim.path[spot] ?? claim.root) };
    default:
      return claim;
  }
}

describe("places in trees that were shown in part", () => {
  it("hold when the whole walk to the root does, whatever was asked before", () => {
    const change = fc.tuple(fc.nat(14), fc.nat(300), fc.nat(300));
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 70 }),
        fc.array(fc.tuple(fc.nat(69), change), { minLength: 1, maxLength: 60 }),
        (size, asked) => {
          const claims = treeOf(size);
          const trees = new ProvenTrees(sha256);
          for (const [at, how] of asked) {
            const claim = size === 1 && how[0] === 3 ? claims[0]! : tryChange(claims[at % size]!, how, claims);
            expect(trees.holds(claim)).toBe(leads(claim));
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  it("takes every item of a list, in order and backwards, and hashes each node once", () => {
    let hashes = 0;
    const counting = (data: Uint8Array) => {
      hashes++;
      return sha256(data);
    };
    for (const claims of [treeOf(256), treeOf(256).toReversed(), treeOf(200)]) {
      const trees = new ProvenTrees(counting);
      hashes = 0;
      expect(claims.every((claim) => trees.holds(claim))).toBe(true);
      expect(hashes).toBe(claims.length - 1);
    }
  });

  it("says no to a leaf that is an inner node of the same tree, and to places that can't be", () => {
    const [first] = treeOf(8);
    const trees = new ProvenTrees(sha256);
    expect(trees.holds(first!)).toBe(true);
    for (const index of [-1, 0.5, 8, Number.NaN]) expect(trees.holds({ ...first!, index })).toBe(false);
    expect(trees.holds({ ...first!, size: 2 ** 52, index: 2 ** 51 })).toBe(false);
    expect(trees.holds({ ...first!, path: ["00", ...first!.path.slice(1)] })).toBe(false);
  });
});

/** A list of one item has no path to change. */
function tryChange(claim: PlaceClaim, how: Change, claims: readonly PlaceClaim[]): PlaceClaim {
  return claim.path.length === 0 && how[0] === 3 ? claim : changed(claim, how, claims);
}
