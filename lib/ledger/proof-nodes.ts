/**
 * Inclusion proofs of several leaves of one tree, each hash once: what an earlier leaf's proof has shown, as a sibling or
 * as a node on its way to the root, is left out of the later ones.
 */
import { inclusionRanges, nodeHash, verifyInclusion, type LeafRange } from "./tree.ts";

/** Which of a tree's nodes a range is: no two of one height begin at one leaf. What a key finds is verified again. */
const keyOf = ({ start, end }: LeafRange): number => start * 64 + Math.ceil(Math.log2(end - start));

const joined = (a: LeafRange, b: LeafRange): LeafRange => ({
  start: Math.min(a.start, b.start),
  end: Math.max(a.end, b.end),
});

/** The nodes from leaf `index` to the root, each with its sibling's range. */
function* wayUp(index: number, size: number): Generator<{ node: LeafRange; sibling: LeafRange }> {
  let node: LeafRange = { start: index, end: index + 1 };
  for (const sibling of inclusionRanges(index, size)) {
    yield { node, sibling };
    node = joined(node, sibling);
  }
}

/** For who writes such proofs, in the order in which they will be read. */
export class ProofWriter {
  readonly #size: number;
  readonly #known = new Set<number>();

  constructor(size: number) {
    this.#size = size;
  }

  /** The part of a whole proof that hasn't been shown. @throws CountersignError `proof-invalid` for no such leaf */
  cut(index: number, path: readonly Uint8Array[]): Uint8Array[] {
    const rest: Uint8Array[] = [];
    let i = 0;
    for (const { node, sibling } of wayUp(index, this.#size)) {
      const hash = path[i++];
      if (hash !== undefined && !this.#known.has(keyOf(sibling))) rest.push(hash);
      this.#known.add(keyOf(node)).add(keyOf(sibling));
    }
    return rest;
  }
}

/** For who reads them. Only proofs that hold add to what is known. */
export class ProofReader {
  readonly #size: number;
  readonly #root: Uint8Array;
  readonly #known = new Map<number, Uint8Array>();

  /** @param root of a tree of `size` leaves, authenticated */
  constructor(size: number, root: Uint8Array) {
    this.#size = size;
    this.#root = root;
  }

  /** Does the rest of a proof, with what is known, show the leaf at `index`? All of it has to be used. */
  verify(leafHash: Uint8Array, index: number, rest: readonly Uint8Array[]): boolean {
    if (index >= this.#size) return false;
    const path: Uint8Array[] = [];
    let used = 0;
    for (const { sibling } of wayUp(index, this.#size)) {
      const hash = this.#known.get(keyOf(sibling)) ?? rest[used++];
      if (hash === undefined) return false;
      path.push(hash);
    }
    if (used !== rest.length) return false;
    if (!verifyInclusion({ leafHash, index, size: this.#size, path, root: this.#root })) return false;
    let hash = leafHash;
    let i = 0;
    for (const { node, sibling } of wayUp(index, this.#size)) {
      const other = path[i++]!;
      this.#known.set(keyOf(node), hash).set(keyOf(sibling), other);
      hash = sibling.start < node.start ? nodeHash(other, hash) : nodeHash(hash, other);
    }
    return true;
  }
}
