/**
 * Reads a log that somebody else serves as tlog-tiles and believes nothing: the checkpoint's signature is verified when
 * the log is opened, every tile against the root before a hash of it is used, every entry against its leaf hash.
 */
import { equalBytes, toHex } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { sha256 as portableSha256, type Sha256 } from "../domain/hash.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { openCheckpoint, type SignedCheckpoint } from "./checkpoint.ts";
import { MAX_NOTE_BYTES, type NoteKey } from "./note.ts";
import {
  decodeBundle,
  edgeTiles,
  MAX_BUNDLE_BYTES,
  MAX_TILE_BYTES,
  TILE_HEIGHT,
  TILE_WIDTH,
  tileOfSubtree,
  tilePath,
  tileWidth,
} from "./tiles.ts";
import {
  consistencyRanges,
  foldSubtrees,
  HASH_SIZE,
  inclusionRanges,
  leafHash,
  nodeHash,
  subtreesOf,
  type LeafRange,
  type Subtree,
} from "./tree.ts";

/**
 * Gives the bytes at a path of the log (`checkpoint`, `tile/0/000`), or undefined when there is none. Throws only when
 * the source can't be reached. What it gives is not trusted.
 */
export type FetchResource = (path: string) => Promise<Uint8Array | undefined>;

export interface LogEntry {
  readonly index: number;
  readonly leafHash: Uint8Array;
  /** the exact bytes that were logged */
  readonly bytes: Uint8Array;
}

export interface LogReaderOptions {
  readonly fetch: FetchResource;
  readonly log: NoteKey;
  readonly verify: VerifySignature;
  readonly witnesses?: readonly NoteKey[];
  readonly sha256?: Sha256;
  /** read the log as of this signed checkpoint instead of fetching the newest */
  readonly checkpoint?: Uint8Array;
  /** full tiles kept in memory, 8 KiB each; default 512 */
  readonly cacheTiles?: number;
  /** bundles of entries kept in memory, up to 16.8 MB each; default 8, for entries that are read in about their order */
  readonly cacheBundles?: number;
}

/** A tile's hashes and, by height, those of the complete subtrees within it, one behind the other. */
type Tile = readonly Uint8Array[];

function tileOf(hashes: Uint8Array, sha256: Sha256): Tile {
  const heights = [hashes];
  for (let below = hashes; below.length > HASH_SIZE;) {
    const above = new Uint8Array(Math.floor(below.length / (2 * HASH_SIZE)) * HASH_SIZE);
    for (let at = 0; at < above.length; at += HASH_SIZE) {
      above.set(nodeHash(hashIn(below, (2 * at) / HASH_SIZE), hashIn(below, (2 * at) / HASH_SIZE + 1), sha256), at);
    }
    heights.push(above);
    below = above;
  }
  return heights;
}

const hashIn = (row: Uint8Array, index: number): Uint8Array => row.subarray(index * HASH_SIZE, (index + 1) * HASH_SIZE);

export class LogReader {
  readonly checkpoint: SignedCheckpoint;
  readonly #fetch: FetchResource;
  readonly #sha256: Sha256;
  readonly #cacheTiles: number;
  readonly #cacheBundles: number;
  readonly #edge = new Map<number, Tile>();
  readonly #tiles = new Map<string, Tile>();
  readonly #bundles = new Map<number, LogEntry[]>();

  private constructor(checkpoint: SignedCheckpoint, options: LogReaderOptions) {
    this.checkpoint = checkpoint;
    this.#fetch = options.fetch;
    this.#sha256 = options.sha256 ?? portableSha256;
    this.#cacheTiles = Math.max(8, options.cacheTiles ?? 512);
    this.#cacheBundles = Math.max(1, options.cacheBundles ?? 8);
  }

  /**
   * @throws CountersignError `not-found` (no checkpoint), `note-invalid`, `checkpoint-invalid`, `tile-invalid` (a tile is
   *   missing, or the tiles don't hash to the signed root)
   */
  static async open(options: LogReaderOptions): Promise<LogReader> {
    const note = options.checkpoint ?? (await options.fetch("checkpoint"));
    if (note === undefined) throw new CountersignError("not-found", `the log ${options.log.name} has no checkpoint`);
    if (note.length > MAX_NOTE_BYTES) {
      throw new CountersignError("checkpoint-invalid", `the checkpoint of ${options.log.name} is too large`);
    }
    const reader = new LogReader(await openCheckpoint(note, options.log, options.verify, options.witnesses), options);
    await reader.#readEdge();
    return reader;
  }

  get origin(): string {
    return this.checkpoint.origin;
  }

  get size(): number {
    return this.checkpoint.size;
  }

  /** All complete subtrees under the root lie in the edge tiles; once they fold to it, each hash in them is proven. */
  async #readEdge(): Promise<void> {
    for (const { level, index, width } of edgeTiles(this.size)) {
      this.#edge.set(level as number, tileOf(await this.#fetchTile(level as number, index, width), this.#sha256));
    }
    const peaks: Uint8Array[] = [];
    for (const subtree of subtreesOf({ start: 0, end: this.size })) peaks.push(await this.subtreeHash(subtree));
    if (!equalBytes(foldSubtrees(peaks, this.#sha256), this.checkpoint.root)) {
      throw this.#tileError("tile-invalid", "its newest tiles don't hash to the signed root");
    }
  }

  #tileError(code: "tile-invalid" | "proof-invalid", message: string): CountersignError {
    return new CountersignError(code, `log ${this.origin} at size ${this.size}: ${message}`);
  }

  async #fetchTile(level: number, index: number, width: number): Promise<Uint8Array> {
    const path = tilePath({ level, index, width });
    let bytes = await this.#fetch(path);
    // A log may drop a partial tile once the full one exists, whose beginning is the same.
    if (bytes === undefined && width < TILE_WIDTH) {
      bytes = await this.#fetch(tilePath({ level, index, width: TILE_WIDTH }));
      if (bytes?.length === MAX_TILE_BYTES) bytes = bytes.subarray(0, width * HASH_SIZE);
    }
    if (bytes === undefined) throw this.#tileError("tile-invalid", `${path} is missing`);
    if (bytes.length !== width * HASH_SIZE) {
      throw this.#tileError("tile-invalid", `${path} has ${bytes.length} bytes, expected ${width * HASH_SIZE}`);
    }
    return bytes;
  }

  /** The verified hashes of a tile. */
  async #tile(level: number, index: number): Promise<Tile> {
    const width = tileWidth(this.size, level, index);
    if (width === 0) throw this.#tileError("proof-invalid", `there is no tile ${index} at level ${level}`);
    if (width < TILE_WIDTH) return this.#edge.get(level)!;
    const key = `${level}/${index}`;
    const cached = this.#tiles.get(key);
    if (cached !== undefined) {
      this.#tiles.delete(key);
      this.#tiles.set(key, cached);
      return cached;
    }
    const tile = tileOf(await this.#fetchTile(level, index, TILE_WIDTH), this.#sha256);
    const [parent] = await this.#tile(level + 1, Math.floor(index / TILE_WIDTH));
    if (!equalBytes(tile[TILE_HEIGHT]!, hashIn(parent!, index % TILE_WIDTH))) {
      throw this.#tileError("tile-invalid", `${tilePath({ level, index, width })} doesn't belong to the signed root`);
    }
    if (this.#tiles.size >= this.#cacheTiles) this.#tiles.delete(this.#tiles.keys().next().value!);
    this.#tiles.set(key, tile);
    return tile;
  }

  /** The hash of a complete subtree that lies within the log. */
  async subtreeHash(subtree: Subtree): Promise<Uint8Array> {
    const at = tileOfSubtree(subtree);
    const tile = await this.#tile(at.level, at.index);
    const hash = hashIn(tile[at.height] ?? new Uint8Array(0), at.position);
    if (hash.length === 0) throw this.#tileError("proof-invalid", "the subtree lies beyond the log's end");
    return hash;
  }

  async #rangeHash(range: LeafRange): Promise<Uint8Array> {
    const hashes: Uint8Array[] = [];
    for (const subtree of subtreesOf(range)) hashes.push(await this.subtreeHash(subtree));
    return foldSubtrees(hashes, this.#sha256);
  }

  /** The root as it was at an earlier size. @throws CountersignError `proof-invalid` for a size beyond the log's */
  async rootAt(size: number): Promise<Uint8Array> {
    if (size > this.size) throw this.#tileError("proof-invalid", `it has no ${size} leaves`);
    return this.#rangeHash({ start: 0, end: size });
  }

  async leafHash(index: number): Promise<Uint8Array> {
    this.#assertIndex(index);
    return this.subtreeHash({ level: 0, index });
  }

  /** In the tree of `size` leaves (default: the checkpoint's). @throws CountersignError `proof-invalid`, `tile-invalid` */
  async inclusionProof(index: number, size = this.size): Promise<Uint8Array[]> {
    this.#assertIndex(size - 1);
    const proof: Uint8Array[] = [];
    for (const range of inclusionRanges(index, size)) proof.push(await this.#rangeHash(range));
    return proof;
  }

  /** From an older size to `size` (default: the checkpoint's). @throws CountersignError `proof-invalid`, `tile-invalid` */
  async consistencyProof(oldSize: number, size = this.size): Promise<Uint8Array[]> {
    if (size > this.size) throw this.#tileError("proof-invalid", `it has no ${size} leaves`);
    const proof: Uint8Array[] = [];
    for (const range of consistencyRanges(oldSize, size)) proof.push(await this.#rangeHash(range));
    return proof;
  }

  #assertIndex(index: number): void {
    if (!Number.isSafeInteger(index) || index < 0 || index >= this.size) {
      throw this.#tileError("proof-invalid", `there is no entry ${index}`);
    }
  }

  /** One bundle's entries, each verified against its leaf hash. */
  async #bundle(index: number): Promise<LogEntry[]> {
    const cached = this.#bundles.get(index);
    if (cached !== undefined) return cached;
    const width = tileWidth(this.size, 0, index);
    const hashes = (await this.#tile(0, index))[0]!;
    const path = tilePath({ level: "entries", index, width });
    let bytes = await this.#fetch(path);
    let count = width;
    if (bytes === undefined && width < TILE_WIDTH) {
      bytes = await this.#fetch(tilePath({ level: "entries", index, width: TILE_WIDTH }));
      count = TILE_WIDTH;
    }
    if (bytes === undefined) throw this.#tileError("tile-invalid", `${path} is missing`);
    if (bytes.length > MAX_BUNDLE_BYTES) throw this.#tileError("tile-invalid", `${path} is too large`);
    const entries = decodeBundle(bytes, count)
      .slice(0, width)
      .map((entry, i) => {
        const at = index * TILE_WIDTH + i;
        const logged = hashIn(hashes, i);
        if (!equalBytes(leafHash(entry, this.#sha256), logged)) {
          throw this.#tileError("tile-invalid", `entry ${at} is not the one that was logged (leaf ${toHex(logged)})`);
        }
        return { index: at, leafHash: logged, bytes: entry };
      });
    if (this.#bundles.size >= this.#cacheBundles) this.#bundles.delete(this.#bundles.keys().next().value!);
    this.#bundles.set(index, entries);
    return entries;
  }

  /** @throws CountersignError `proof-invalid` (no such entry), `tile-invalid` */
  async entry(index: number): Promise<LogEntry> {
    this.#assertIndex(index);
    return (await this.#bundle(Math.floor(index / TILE_WIDTH)))[index % TILE_WIDTH]!;
  }

  /** Entries [from, to) in order, one bundle in memory at a time. @throws CountersignError `tile-invalid` */
  async *entries(from = 0, to = this.size): AsyncGenerator<LogEntry, void, undefined> {
    const end = Math.min(to, this.size);
    for (let at = Math.max(0, from); at < end;) {
      const bundle = Math.floor(at / TILE_WIDTH);
      for (const entry of await this.#bundle(bundle)) {
        if (entry.index >= at && entry.index < end) yield entry;
      }
      at = (bundle + 1) * TILE_WIDTH;
    }
  }
}
