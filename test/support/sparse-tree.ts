import { createHash } from "node:crypto";
import { inclusionRanges, nodeHash, type LeafRange } from "../../lib/ledger/tree.ts";
import { nodeSha256 } from "../../services/ledger/sha256.ts";

/**
 * A tree of any size of which a few leaves are known. Every subtree without one has a made-up hash, as good as any other
 * to who only sees hashes; so a log of a million entries costs nothing.
 */
export class SparseTree {
  readonly size: number;
  readonly #leaves: ReadonlyMap<number, Uint8Array>;
  readonly #known: readonly number[];

  constructor(size: number, leaves: ReadonlyMap<number, Uint8Array>) {
    this.size = size;
    this.#leaves = leaves;
    this.#known = [...leaves.keys()].sort((a, b) => a - b);
  }

  root(): Uint8Array {
    return this.#hash({ start: 0, end: this.size });
  }

  proof(index: number): Uint8Array[] {
    return inclusionRanges(index, this.size).map((range) => this.#hash(range));
  }

  #hash({ start, end }: LeafRange): Uint8Array {
    if (!this.#known.some((index) => index >= start && index < end)) {
      return new Uint8Array(createHash("sha256").update(`${start}-${end}`).digest());
    }
    if (end - start === 1) return this.#leaves.get(start)!;
    const middle = start + 2 ** Math.ceil(Math.log2(end - start) - 1);
    return nodeHash(this.#hash({ start, end: middle }), this.#hash({ start: middle, end }), nodeSha256);
  }
}
