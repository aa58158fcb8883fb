import { fromHex, toHex, utf8 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseDecimal } from "../../lib/ledger/checkpoint.ts";
import { withSignatures } from "../../lib/ledger/cosignature.ts";
import type { FetchResource } from "../../lib/ledger/reader.ts";
import { encodeBundle, parseTilePath, TILE_WIDTH, tileWidth, type TileId } from "../../lib/ledger/tiles.ts";
import { HASH_SIZE } from "../../lib/ledger/tree.ts";
import { cosignaturesOf, cosignedFrom, newestCosigned } from "../../store/cosignatures.ts";
import type { Queryable } from "../../store/db.ts";
import {
  readBlob,
  readCheckpoint,
  readEntries,
  readTile,
  storeBlob,
  type StoredCheckpoint,
} from "../../store/ledger.ts";
import { nodeSha256 } from "./sha256.ts";

export const MAX_BLOB_BYTES = 64 << 20;

/** What a log answers at a path below its base URL. */
export interface LedgerResource {
  readonly bytes: Uint8Array;
  readonly contentType: string;
  readonly cacheControl: string;
}

/** A full tile or bundle, or bytes under their own digest: what the path names never changes. */
const IMMUTABLE = "public, max-age=31536000, immutable";
/** What a partial tile's path names never changes either, but it is asked for once or twice and may go. */
const SHORT = "public, max-age=60";
/** Asked for again every time: a newer one may be there, or more cosignatures. */
const ASK_AGAIN = "no-cache";

/** Sizes in one answer of `cosigned/from/<size>`. */
export const COSIGNED_PAGE = 1000;

/** A checkpoint's note with the cosignatures that have come in for it below the log's own line. */
export async function noteOf(db: Queryable, checkpoint: StoredCheckpoint): Promise<Uint8Array> {
  return withSignatures(checkpoint.note, await cosignaturesOf(db, checkpoint.size));
}

async function readNote(db: Queryable, size?: number): Promise<Uint8Array | undefined> {
  const checkpoint = await readCheckpoint(db, size);
  return checkpoint && noteOf(db, checkpoint);
}

/**
 * Checkpoints that a quorum has cosigned: `newest`, `<size>`, and `from/<size>`, which lists the sizes from there on, one
 * a line, ascending, COSIGNED_PAGE of them at most.
 */
async function readCosigned(db: Queryable, name: string): Promise<Uint8Array | undefined> {
  const from = name.startsWith("from/") ? parseDecimal(name.slice(5)) : undefined;
  if (from !== undefined) {
    return utf8((await cosignedFrom(db, from, COSIGNED_PAGE)).map((size) => `${size}\n`).join(""));
  }
  const size = name === "newest" ? await newestCosigned(db) : parseDecimal(name);
  if (size === undefined || (await cosignedFrom(db, size, 1))[0] !== size) return undefined;
  return readNote(db, size);
}

/**
 * Reads `checkpoint`, `cosigned/...`, `tile/...`, `tile/entries/...` or `blobs/<sha256>` (no leading slash, not
 * percent-encoded). Only what a signed checkpoint covers is given: tiles of a head that isn't signed yet are nobody's
 * business. Undefined: 404.
 */
export async function readLedgerResource(db: Queryable, path: string): Promise<LedgerResource | undefined> {
  if (path === "checkpoint" || path.startsWith("cosigned/")) {
    const bytes = await (path === "checkpoint" ? readNote(db) : readCosigned(db, path.slice(9)));
    return bytes && { bytes, contentType: "text/plain; charset=utf-8", cacheControl: ASK_AGAIN };
  }
  const blob = /^blobs\/([0-9a-f]{64})$/.exec(path)?.[1];
  const tile = parseTilePath(path);
  const bytes = blob === undefined ? tile && (await readTileBytes(db, tile)) : await readBlob(db, fromHex(blob));
  const partial = tile !== undefined && tile.width < TILE_WIDTH;
  return bytes && { bytes, contentType: "application/octet-stream", cacheControl: partial ? SHORT : IMMUTABLE };
}

async function readTileBytes(db: Queryable, tile: TileId): Promise<Uint8Array | undefined> {
  const size = (await readCheckpoint(db))?.size ?? 0;
  if (tile.width > tileWidth(size, tile.level, tile.index)) return undefined;
  if (tile.level === "entries") {
    const first = tile.index * TILE_WIDTH;
    return encodeBundle(await readEntries(db, first, first + tile.width));
  }
  const hashes = await readTile(db, tile.level, tile.index);
  return hashes?.subarray(0, tile.width * HASH_SIZE);
}

/** This database's own ledger as a LogReader's source. */
export function databaseSource(db: Queryable): FetchResource {
  return async (path) => (await readLedgerResource(db, path))?.bytes;
}

/** Keeps bytes beside the ledger and gives their SHA-256, for an act's `blobs`. @throws CountersignError `input-too-large` */
export async function putBlob(db: Queryable, bytes: Uint8Array): Promise<string> {
  if (bytes.length > MAX_BLOB_BYTES) {
    throw new CountersignError("input-too-large", `a blob of ${bytes.length} bytes exceeds ${MAX_BLOB_BYTES}`);
  }
  const digest = nodeSha256(bytes);
  await storeBlob(db, digest, bytes);
  return toHex(digest);
}
