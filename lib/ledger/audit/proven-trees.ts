import { fromHex, toHex } from "../../domain/bytes.ts";
import type { Sha256 } from "../../domain/hash.ts";
import { HASH_SIZE, isTreeSize, nodeHash, rootFromInclusion } from "../tree.ts";

export interface PlaceClaim {
  readonly leafHash: Uint8Array;
  readonly index: number;
  /** of the list, in items */
  readonly size: number;
  /** hex, the leaf's sibling first */
  readonly path: readonly string[];
  /** hex */
  readonly root: string;
}

/** Nodes of one tree that were shown to lie under its root: hex, by level and position. */
type Proven = Map<number, string>;

/** Trees at once, and nodes of one of them; a larger one begins again. */
const TREES = 64;
const NODES = 4096;
/** Above this, level and position don't fit one number. */
const LARGEST = 2 ** 40;

const keyOf = (level: number, position: number): number => position * 64 + level;

/**
 * Places in RFC 6962 trees, such as a batch's: its items come one after the other, and what one of them has shown, the
 * next needn't hash again. Says of every claim what `rootFromInclusion` says.
 *
 * Whatever node is known here, all siblings on its way up are: they were shown with it. So a walk that meets a known node
 * has only to be the known one from there.
 */
export class ProvenTrees {
  readonly #sha256: Sha256;
  readonly #trees = new Map<string, Proven>();

  constructor(sha256: Sha256) {
    this.#sha256 = sha256;
  }

  /** Does the path lead from the leaf at `index` to the root? */
  holds(claim: PlaceClaim): boolean {
    const { leafHash, index, size, path, root } = claim;
    if (!isTreeSize(index) || !isTreeSize(size) || index >= size || leafHash.length !== HASH_SIZE) return false;
    const known = size > LARGEST ? undefined : this.#tree(`${root}/${size}`);
    if (known === undefined) {
      const found = rootFromInclusion({ leafHash, index, size, path: path.map(fromHex) }, this.#sha256);
      return found !== undefined && toHex(found) === root;
    }
    const shown: [key: number, hash: string][] = [];
    let hash = toHex(leafHash);
    let used = 0;
    let level = 0;
    let met = false;
    for (let at = index, last = size - 1; ; at = Math.floor(at / 2), last = Math.floor(last / 2), level++) {
      const before = met ? undefined : known.get(keyOf(level, at));
      if (before !== undefined) {
        if (before !== hash) return false;
        met = true;
      }
      if (last === 0) break;
      if (!met) shown.push([keyOf(level, at), hash]);
      // The last node of a level, where it is a left one, moves up as it is.
      if (at % 2 === 0 && at === last) continue;
      const sibling = path[used++];
      if (sibling?.length !== 2 * HASH_SIZE) return false;
      const right = at % 2 === 1;
      const beside = keyOf(level, right ? at - 1 : at + 1);
      if (met) {
        if (known.get(beside) !== sibling) return false;
        continue;
      }
      shown.push([beside, sibling]);
      hash = right ? this.#parent(sibling, hash) : this.#parent(hash, sibling);
    }
    if (used !== path.length || (!met && hash !== root)) return false;
    for (const [key, proven] of shown) known.set(key, proven);
    return true;
  }

  #parent(left: string, right: string): string {
    return toHex(nodeHash(fromHex(left), fromHex(right), this.#sha256));
  }

  #tree(name: string): Proven {
    const known = this.#trees.get(name);
    if (known !== undefined && known.size < NODES) return known;
    const begun: Proven = new Map();
    this.#trees.delete(name);
    if (this.#trees.size >= TREES) this.#trees.delete(this.#trees.keys().next().value!);
    this.#trees.set(name, begun);
    return begun;
  }
}
