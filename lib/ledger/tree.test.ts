import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { concatBytes, fromHex, toHex, utf8 } from "../domain/bytes.ts";
import { TreeEdge } from "./edge.ts";
import {
  consistencyProof,
  emptyRoot,
  inclusionProof,
  inclusionProofs,
  leafHash,
  rootOf,
  splitHashes,
  verifyConsistency,
  verifyInclusion,
} from "./tree.ts";

/** RFC 6962 section 2.1 word for word, over OpenSSL: shares nothing with the code under test. */
const h = (...parts: Uint8Array[]): Uint8Array => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return new Uint8Array(hash.digest());
};
const split = (n: number): number => 2 ** Math.ceil(Math.log2(n) - 1);
const mth = (d: Uint8Array[]): Uint8Array => {
  if (d.length === 0) return h();
  if (d.length === 1) return h(Uint8Array.of(0), d[0]!);
  const k = split(d.length);
  return h(Uint8Array.of(1), mth(d.slice(0, k)), mth(d.slice(k)));
};
const path = (m: number, d: Uint8Array[]): Uint8Array[] => {
  if (d.length === 1) return [];
  const k = split(d.length);
  return m < k ? [...path(m, d.slice(0, k)), mth(d.slice(k))] : [...path(m - k, d.slice(k)), mth(d.slice(0, k))];
};
const subproof = (m: number, d: Uint8Array[], whole: boolean): Uint8Array[] => {
  if (m === d.length) return whole ? [] : [mth(d)];
  const k = split(d.length);
  return m <= k
    ? [...subproof(m, d.slice(0, k), whole), mth(d.slice(k))]
    : [...subproof(m - k, d.slice(k), false), mth(d.slice(0, k))];
};

const entries = (n: number): Uint8Array[] => Array.from({ length: n }, (_, i) => utf8(`entry ${i}`));
const hexes = (list: Uint8Array[]): string[] => list.map(toHex);

// The eight leaves and roots of certificate-transparency-go's merkletree tests, published with RFC 6962's reference code.
const CT_LEAVES = [
  "",
  "00",
  "10",
  "2021",
  "3031",
  "40414243",
  "5051525354555657",
  "606162636465666768696a6b6c6d6e6f",
].map(fromHex);
const CT_ROOTS = [
  "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
  "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
  "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
  "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
  "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
  "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
  "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
  "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

describe("RFC 6962 trees", () => {
  it("gives the published roots", () => {
    expect(toHex(emptyRoot())).toBe("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (const [i, root] of CT_ROOTS.entries()) {
      expect(toHex(rootOf(CT_LEAVES.slice(0, i + 1).map((leaf) => leafHash(leaf))))).toBe(root);
    }
  });

  it("gives the published inclusion and consistency proofs", () => {
    const leaves = CT_LEAVES.map((leaf) => leafHash(leaf));
    expect(hexes(inclusionProof(leaves, 5))).toEqual([
      "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
      "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
      "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]);
    expect(hexes(consistencyProof(leaves, 6))).toEqual([
      "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
      "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
      "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]);
  });

  it("agrees with the RFC's own recursion at every size to 66, every index, every old size", () => {
    for (let n = 0; n <= 66; n++) {
      const d = entries(n);
      const leaves = d.map((e) => leafHash(e));
      const root = rootOf(leaves);
      expect(toHex(root)).toBe(toHex(mth(d)));
      const all = inclusionProofs(leaves);
      expect(toHex(all.root)).toBe(toHex(root));
      for (let m = 0; m < n; m++) {
        const proof = inclusionProof(leaves, m);
        expect(hexes(proof)).toEqual(hexes(path(m, d)));
        expect(hexes(all.paths[m]!)).toEqual(hexes(proof));
        expect(verifyInclusion({ leafHash: leaves[m]!, index: m, size: n, path: proof, root })).toBe(true);
      }
      for (let m = 1; m <= n; m++) {
        const proof = consistencyProof(leaves, m);
        expect(hexes(proof)).toEqual(hexes(subproof(m, d, true)));
        expect(verifyConsistency({ oldSize: m, oldRoot: rootOf(leaves.slice(0, m)), size: n, root, proof })).toBe(true);
      }
      expect(verifyConsistency({ oldSize: 0, oldRoot: emptyRoot(), size: n, root, proof: [] })).toBe(true);
    }
  });

  it("refuses every single change to an inclusion proof", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 300 }),
        fc.nat(),
        fc.nat(),
        fc.integer({ min: 0, max: 255 }),
        (n, i, where, bit) => {
          const index = i % n;
          const leaves = entries(n).map((e) => leafHash(e));
          const root = rootOf(leaves);
          const good = { leafHash: leaves[index]!, index, size: n, path: inclusionProof(leaves, index), root };
          const flipped = (hash: Uint8Array): Uint8Array => {
            const copy = hash.slice();
            copy[bit >> 3]! ^= 1 << (bit & 7);
            return copy;
          };
          expect(verifyInclusion(good)).toBe(true);
          expect(verifyInclusion({ ...good, leafHash: flipped(good.leafHash) })).toBe(false);
          expect(verifyInclusion({ ...good, root: flipped(root) })).toBe(false);
          expect(verifyInclusion({ ...good, path: [...good.path, root] })).toBe(false);
          expect(verifyInclusion({ ...good, index: n })).toBe(false);
          expect(verifyInclusion({ ...good, index: -1 })).toBe(false);
          expect(verifyInclusion({ ...good, size: 2 ** 60 })).toBe(false);
          const other = (index + 1 + (where % Math.max(1, n - 1))) % n;
          if (other !== index) expect(verifyInclusion({ ...good, index: other })).toBe(false);
          if (good.path.length > 0) {
            const at = where % good.path.length;
            expect(verifyInclusion({ ...good, path: good.path.with(at, flipped(good.path[at]!)) })).toBe(false);
            expect(verifyInclusion({ ...good, path: good.path.slice(1) })).toBe(false);
            expect(verifyInclusion({ ...good, path: good.path.with(at, good.path[at]!.subarray(1)) })).toBe(false);
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  it("refuses every single change to a consistency proof", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 300 }), fc.nat(), fc.nat(), (n, o, where) => {
        const oldSize = 1 + (o % n);
        const leaves = entries(n).map((e) => leafHash(e));
        const root = rootOf(leaves);
        const oldRoot = rootOf(leaves.slice(0, oldSize));
        const good = { oldSize, oldRoot, size: n, root, proof: consistencyProof(leaves, oldSize) };
        expect(verifyConsistency(good)).toBe(true);
        const forged = rootOf(leaves.with(where % oldSize, leafHash(utf8("rewritten"))).slice(0, oldSize));
        expect(verifyConsistency({ ...good, oldRoot: forged })).toBe(false);
        expect(verifyConsistency({ ...good, root: forged })).toBe(oldSize === n && toHex(forged) === toHex(oldRoot));
        expect(verifyConsistency({ ...good, proof: [...good.proof, root] })).toBe(false);
        // Nothing but SHA-256 values: longer ones aren't cut off, shorter ones not filled up.
        const longer = (hash: Uint8Array): Uint8Array => concatBytes(hash, new Uint8Array(40));
        expect(verifyConsistency({ ...good, oldRoot: longer(good.oldRoot) })).toBe(false);
        expect(verifyConsistency({ ...good, root: good.root.subarray(0, 31) })).toBe(false);
        expect(verifyConsistency({ ...good, oldRoot: good.oldRoot.subarray(0, 31) })).toBe(false);
        expect(verifyConsistency({ ...good, oldSize: n, size: oldSize })).toBe(oldSize === n);
        if (good.proof.length > 0) expect(verifyConsistency({ ...good, proof: good.proof.slice(0, -1) })).toBe(false);
      }),
      { numRuns: 100 },
    );
  });
});

describe("the growing edge", () => {
  it("gives root and tiles of the whole list, however it is fed and restarted", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 5 }), (batches) => {
        const leaves: Uint8Array[] = [];
        const tiles = new Map<string, Uint8Array>();
        let edge = new TreeEdge();
        for (const n of batches) {
          const batch = Array.from({ length: n }, (_, i) => leafHash(utf8(`${leaves.length + i}`)));
          leaves.push(...batch);
          const named = new Set<string>();
          for (const tile of edge.append(batch)) {
            const name = `${tile.level}/${tile.index}`;
            expect(named.has(name)).toBe(false);
            named.add(name);
            expect(tile.bytes.length).toBe(32 * tile.width);
            tiles.set(name, tile.bytes);
          }
          expect(toHex(edge.root())).toBe(toHex(rootOf(leaves)));
          // Read back from what was emitted, as after a restart.
          const stored: Uint8Array[][] = [];
          for (let level = 0, count = leaves.length; count > 0; level++, count = Math.floor(count / 256)) {
            if (count % 256 > 0) stored.push(splitHashes(tiles.get(`${level}/${Math.floor(count / 256)}`)!));
          }
          edge = new TreeEdge(leaves.length, stored);
          expect(toHex(edge.root())).toBe(toHex(rootOf(leaves)));
        }
        for (let i = 0; i * 256 < leaves.length; i++) {
          expect(toHex(tiles.get(`0/${i}`)!)).toBe(toHex(concatBytes(...leaves.slice(i * 256, i * 256 + 256))));
        }
      }),
      { numRuns: 25 },
    );
  });
});
