/**
 * The growing right edge of a log: the partial tile of each level. Appending a leaf costs about one node hash, and the
 * state is what the tiles on disk hold, so it is read back from them after a restart.
 */
import { CountersignError } from "../domain/errors.ts";
import { sha256 as portableSha256, type Sha256 } from "../domain/hash.ts";
import { edgeTiles, TILE_WIDTH, type TileId } from "./tiles.ts";
import { foldSubtrees, joinHashes, rootOf, subtreesOf } from "./tree.ts";

export interface HashTile extends TileId {
  readonly level: number;
  readonly bytes: Uint8Array;
}

export class TreeEdge {
  readonly #sha256: Sha256;
  /** partial tile by level; its index is floor(size / 256^(level + 1)) */
  readonly #levels: Uint8Array[][] = [];
  #size = 0;
  #root: Uint8Array | undefined;

  /** @param tiles the hashes of every tile in `edgeTiles(size)`, in that order */
  constructor(size = 0, tiles: readonly (readonly Uint8Array[])[] = [], sha256: Sha256 = portableSha256) {
    this.#sha256 = sha256;
    const ids = edgeTiles(size);
    if (ids.length !== tiles.length) {
      throw new CountersignError(
        "tile-invalid",
        `the edge of ${size} leaves has ${ids.length} tiles, got ${tiles.length}`,
      );
    }
    for (const [i, id] of ids.entries()) {
      if (tiles[i]!.length !== id.width) {
        throw new CountersignError(
          "tile-invalid",
          `edge tile of level ${id.level} has ${tiles[i]!.length} hashes, expected ${id.width}`,
        );
      }
      while (this.#levels.length <= (id.level as number)) this.#levels.push([]);
      this.#levels[id.level as number] = [...tiles[i]!];
    }
    this.#size = size;
  }

  get size(): number {
    return this.#size;
  }

  clone(): TreeEdge {
    const copy = new TreeEdge(0, [], this.#sha256);
    copy.#size = this.#size;
    copy.#root = this.#root;
    for (const level of this.#levels) copy.#levels.push([...level]);
    return copy;
  }

  root(): Uint8Array {
    return (this.#root ??= this.#computeRoot());
  }

  #computeRoot(): Uint8Array {
    const hashes: Uint8Array[] = [];
    // Peaks from the largest down: the highest level's complete subtrees come first.
    for (let level = this.#levels.length - 1; level >= 0; level--) {
      const tile = this.#levels[level]!;
      for (const part of subtreesOf({ start: 0, end: tile.length })) {
        const span = 2 ** part.level;
        hashes.push(rootOf(tile.slice(part.index * span, (part.index + 1) * span), this.#sha256));
      }
    }
    return foldSubtrees(hashes, this.#sha256);
  }

  /** Appends leaves and gives every tile that changed: the full ones, and the partial ones at the new edge. */
  append(leafHashes: readonly Uint8Array[]): HashTile[] {
    this.#root = undefined;
    const changed: HashTile[] = [];
    const touched = new Set<number>();
    const push = (level: number, hash: Uint8Array): void => {
      while (this.#levels.length <= level) this.#levels.push([]);
      const tile = this.#levels[level]!;
      tile.push(hash);
      touched.add(level);
      if (tile.length < TILE_WIDTH) return;
      const index = Math.floor((this.#size - 1) / TILE_WIDTH ** (level + 1));
      changed.push({ level, index, width: TILE_WIDTH, bytes: joinHashes(tile) });
      this.#levels[level] = [];
      push(level + 1, rootOf(tile, this.#sha256));
    };
    for (const hash of leafHashes) {
      this.#size++;
      push(0, hash);
    }
    for (const level of touched) {
      const tile = this.#levels[level]!;
      if (tile.length === 0) continue;
      const index = Math.floor(this.#size / TILE_WIDTH ** (level + 1));
      changed.push({ level, index, width: tile.length, bytes: joinHashes(tile) });
    }
    return changed;
  }
}
