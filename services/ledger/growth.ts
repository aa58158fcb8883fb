import { equalBytes, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { TreeEdge } from "../../lib/ledger/edge.ts";
import { parseNote } from "../../lib/ledger/note.ts";
import type { FetchResource } from "../../lib/ledger/reader.ts";
import { decodeBundle, edgeTiles, encodeBundle, TILE_WIDTH, tilePath } from "../../lib/ledger/tiles.ts";
import { leafHash, splitHashes } from "../../lib/ledger/tree.ts";
import type { JournalRecord } from "./journal-codec.ts";
import { nodeSha256 } from "./sha256.ts";

/** A file of a static log: its path below the log's folder. */
export interface StaticFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** What a static log's folder gains by new entries, from nothing but the folder's own edge. */
export class Growth {
  readonly #edge: TreeEdge;
  /** the entries of the last bundle, while it isn't full */
  #bundle: Uint8Array[];
  /** edge tiles that are new, by level */
  readonly #partial = new Map<number, StaticFile>();

  private constructor(edge: TreeEdge, bundle: Uint8Array[]) {
    this.#edge = edge;
    this.#bundle = bundle;
  }

  /** @throws CountersignError `tile-invalid` when the folder lacks a tile at its edge */
  static async of(fetch: FetchResource, size: number): Promise<Growth> {
    const read = async (path: string): Promise<Uint8Array> => {
      const bytes = await fetch(path);
      if (bytes) return bytes;
      throw new CountersignError("tile-invalid", `a copy of ${size} entries lacks ${path}`);
    };
    const ids = edgeTiles(size);
    const tiles: Uint8Array[][] = [];
    for (const id of ids) tiles.push(splitHashes(await read(tilePath(id))));
    const last = ids[0]?.level === 0 ? ids[0] : undefined;
    const bundle = last ? decodeBundle(await read(tilePath({ ...last, level: "entries" })), last.width) : [];
    return new Growth(new TreeEdge(size, tiles, nodeSha256), bundle);
  }

  get size(): number {
    return this.#edge.size;
  }

  /**
   * Adds what is new in a record, and gives the files that are whole by that, a bundle's worth at a time: the caller
   * lets others work in between.
   * @throws CountersignError `input-invalid` when entries between are missing
   */
  *add(record: JournalRecord): Generator<StaticFile[], void, undefined> {
    yield record.blobs.map((bytes) => ({ path: `blobs/${toHex(nodeSha256(bytes))}`, bytes }));
    if (record.to <= this.size) return;
    if (record.from > this.size) {
      throw new CountersignError(
        "input-invalid",
        `the journals of the ledger's copy lack the entries from ${this.size} to ${record.from}: move them away, and ` +
          "the copy is written again from the database; where that was lost too, rebuild from a mirror of the ledger",
      );
    }
    for (let at = this.size - record.from; at < record.entries.length;) {
      const slice = record.entries.slice(at, at + TILE_WIDTH - this.#bundle.length);
      at += slice.length;
      yield this.#append(slice);
    }
  }

  #append(entries: readonly Uint8Array[]): StaticFile[] {
    const whole: StaticFile[] = [];
    const index = Math.floor(this.size / TILE_WIDTH);
    for (const tile of this.#edge.append(entries.map((entry) => leafHash(entry, nodeSha256)))) {
      const file = { path: tilePath(tile), bytes: tile.bytes };
      if (tile.width < TILE_WIDTH) {
        this.#partial.set(tile.level, file);
      } else {
        this.#partial.delete(tile.level);
        whole.push(file);
      }
    }
    this.#bundle.push(...entries);
    if (this.#bundle.length === TILE_WIDTH) {
      const path = tilePath({ level: "entries", index, width: TILE_WIDTH });
      whole.push({ path, bytes: encodeBundle(this.#bundle) });
      this.#bundle = [];
    }
    return whole;
  }

  /**
   * The partial tiles and the partial bundle that are new at this size, once.
   * @throws CountersignError `ledger-forked` when this isn't the tree that was signed
   */
  edge(note: Uint8Array): StaticFile[] {
    const { size, root } = parseCheckpoint(parseNote(note).text);
    if (size !== this.size || !equalBytes(root, this.#edge.root())) {
      throw new CountersignError(
        "ledger-forked",
        `the copy's entries aren't those of its checkpoint of ${size} entries`,
      );
    }
    const files = [...this.#partial.values()];
    this.#partial.clear();
    const width = this.#bundle.length;
    if (width > 0) {
      const path = tilePath({ level: "entries", index: Math.floor(size / TILE_WIDTH), width });
      files.push({ path, bytes: encodeBundle(this.#bundle) });
    }
    return files;
  }
}
