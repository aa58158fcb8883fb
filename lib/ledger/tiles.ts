/** C2SP tlog-tiles: paths of hash tiles and entry bundles, and the bundles' encoding. */
import { CountersignError } from "../domain/errors.ts";
import { HASH_SIZE, type Subtree } from "./tree.ts";

/** Hashes in a full tile, entries in a full bundle. */
export const TILE_WIDTH = 256;
export const TILE_HEIGHT = 8;
/** An entry's length is a uint16; a larger act logs a digest. */
export const MAX_ENTRY_BYTES = 65_535;
export const MAX_TILE_BYTES = TILE_WIDTH * HASH_SIZE;
export const MAX_BUNDLE_BYTES = TILE_WIDTH * (MAX_ENTRY_BYTES + 2);
/** 256^7 > 2^53: no tree that a JavaScript number can count has a tile above this level. */
export const MAX_TILE_LEVEL = 6;

export interface TileId {
  /** 0 for leaf hashes, at most MAX_TILE_LEVEL; or an entry bundle */
  readonly level: number | "entries";
  readonly index: number;
  /** 1 to 256; less than 256 is a partial tile */
  readonly width: number;
}

/** `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`, where 1234067 is `x001/x234/067`. */
export function tilePath({ level, index, width }: TileId): string {
  let name = String(index % 1000).padStart(3, "0");
  for (let rest = Math.floor(index / 1000); rest > 0; rest = Math.floor(rest / 1000)) {
    name = `x${String(rest % 1000).padStart(3, "0")}/${name}`;
  }
  return `tile/${level}/${name}${width < TILE_WIDTH ? `.p/${width}` : ""}`;
}

/** The tile that a path names, or undefined when it isn't the one way to write a tile's path. */
export function parseTilePath(path: string): TileId | undefined {
  if (path.length > 80) return undefined;
  const match = /^tile\/(entries|[0-9])\/((?:x[0-9]{3}\/)*[0-9]{3})(?:\.p\/([0-9]{1,3}))?$/.exec(path);
  if (match === null) return undefined;
  const level: TileId["level"] = match[1] === "entries" ? "entries" : Number(match[1]);
  const index = Number(match[2]!.replaceAll(/[x/]/g, ""));
  const width = match[3] === undefined ? TILE_WIDTH : Number(match[3]);
  if (!Number.isSafeInteger(index) || width < 1) return undefined;
  if (level !== "entries" && level > MAX_TILE_LEVEL) return undefined;
  const id = { level, index, width };
  return tilePath(id) === path ? id : undefined;
}

/** Hashes at tile level `level` in a tree of `size`: floor(size / 256^level). */
export function hashesAtLevel(size: number, level: number): number {
  let count = size;
  for (let i = 0; i < level && count > 0; i++) count = Math.floor(count / TILE_WIDTH);
  return count;
}

/** How many hashes tile `index` of `level` has in a tree of `size`: 0 (there is no such tile) to 256. */
export function tileWidth(size: number, level: number | "entries", index: number): number {
  const count = hashesAtLevel(size, level === "entries" ? 0 : level) - index * TILE_WIDTH;
  return Math.max(0, Math.min(TILE_WIDTH, count));
}

/** The partial tiles at the right edge, which hold every complete subtree that the root is folded from. */
export function edgeTiles(size: number): TileId[] {
  const out: TileId[] = [];
  for (let level = 0, count = size; count > 0; level++, count = Math.floor(count / TILE_WIDTH)) {
    const width = count % TILE_WIDTH;
    if (width > 0) out.push({ level, index: Math.floor(count / TILE_WIDTH), width });
  }
  return out;
}

/** Where a complete subtree lies: in tile {level, index}, `height` above its hashes, the `position`-th of that height. */
export function tileOfSubtree({ level, index }: Subtree): {
  level: number;
  index: number;
  height: number;
  position: number;
} {
  const height = level % TILE_HEIGHT;
  const perTile = 2 ** (TILE_HEIGHT - height);
  return {
    level: Math.floor(level / TILE_HEIGHT),
    index: Math.floor(index / perTile),
    height,
    position: index % perTile,
  };
}

/** Repeated uint16-BE length and entry. @throws CountersignError `tile-invalid` for an entry that is too long */
export function encodeBundle(entries: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const entry of entries) length += 2 + entry.length;
  const out = new Uint8Array(length);
  let at = 0;
  for (const entry of entries) {
    if (entry.length > MAX_ENTRY_BYTES) {
      throw new CountersignError("tile-invalid", `an entry has ${entry.length} bytes, the limit is ${MAX_ENTRY_BYTES}`);
    }
    out[at] = entry.length >> 8;
    out[at + 1] = entry.length & 0xff;
    out.set(entry, at + 2);
    at += 2 + entry.length;
  }
  return out;
}

/** The entries of a bundle, exactly `count` of them and not a byte more. @throws CountersignError `tile-invalid` */
export function decodeBundle(bytes: Uint8Array, count: number): Uint8Array[] {
  const entries: Uint8Array[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (entries.length === count) {
      throw new CountersignError("tile-invalid", `the entry bundle holds more than ${count} entries`);
    }
    const length = at + 2 <= bytes.length ? bytes[at]! * 256 + bytes[at + 1]! : Infinity;
    if (at + 2 + length > bytes.length) {
      throw new CountersignError("tile-invalid", `the entry bundle ends inside entry ${entries.length}`);
    }
    entries.push(bytes.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  if (entries.length !== count) {
    throw new CountersignError("tile-invalid", `the entry bundle holds ${entries.length} entries, expected ${count}`);
  }
  return entries;
}
