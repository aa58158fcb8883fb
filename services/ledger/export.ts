import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { FetchResource } from "../../lib/ledger/reader.ts";
import { encodeBundle, hashesAtLevel, TILE_WIDTH, tilePath, tileWidth, type TileId } from "../../lib/ledger/tiles.ts";
import { HASH_SIZE } from "../../lib/ledger/tree.ts";
import type { Db } from "../../store/db.ts";
import { listBlobs, readBlob, readCheckpoint, readEntries, readTile } from "../../store/ledger.ts";
import { writeFile, writeOnce } from "./files.ts";
import { noteOf } from "./serve.ts";

/** Files on their way to the disk at once. */
const LANES = 4;

/**
 * Writes the log under its newest checkpoint, with the cosignatures that have come in for it, as a static tlog-tiles
 * folder: blobs and tiles first, `checkpoint` last,
 * each by rename, so a reader of the folder never meets a checkpoint whose tiles aren't there. Full tiles that an
 * earlier export wrote are kept.
 * @returns the exported size
 * @throws CountersignError `not-found` when there is no checkpoint
 */
export async function exportLedger(db: Db, folder: string): Promise<{ size: number; checkpoint: Uint8Array }> {
  const checkpoint = await readCheckpoint(db);
  if (checkpoint === undefined) throw new CountersignError("not-found", "the ledger has no checkpoint to export");
  const { size } = checkpoint;
  const note = await noteOf(db, checkpoint);

  await writeBlobs(folder, await listBlobs(db), async (sha256) => (await readBlob(db, sha256))!);
  await writeTiles(db, folder, { from: 0, to: size });
  await writeFile(join(folder, "checkpoint"), note);
  return { size, checkpoint: note };
}

/** Every hash tile and bundle of the log of `to` entries that one of `from` entries doesn't have. @param touched gets the folders */
export async function writeTiles(
  db: Db,
  folder: string,
  { from, to }: { readonly from: number; readonly to: number },
  touched?: Set<string>,
): Promise<void> {
  const tiles = newTiles(from, to);
  // Each waits for the disk most of its time.
  const lane = async (): Promise<void> => {
    for (const tile of tiles) {
      const { level, index, width } = tile;
      const first = index * TILE_WIDTH;
      const read =
        level === "entries"
          ? async () => encodeBundle(await readEntries(db, first, first + width))
          : async () => (await readTile(db, level, index))!.subarray(0, width * HASH_SIZE);
      await writeOnce(join(folder, tilePath(tile)), read, touched);
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: LANES }, lane));
  // When it is over, nobody writes any more: who tries again is alone.
  for (const ended of lanes) if (ended.status === "rejected") throw ended.reason;
}

function* newTiles(from: number, to: number): Generator<TileId> {
  for (let level = 0; hashesAtLevel(to, level) > 0; level++) {
    for (let index = Math.floor(from / TILE_WIDTH ** (level + 1)); ; index++) {
      const width = tileWidth(to, level, index);
      if (width === 0) break;
      yield { level, index, width };
      if (level === 0) yield { level: "entries", index, width };
    }
  }
}

export async function writeBlobs(
  folder: string,
  digests: readonly Uint8Array[],
  read: (sha256: Uint8Array) => Promise<Uint8Array>,
  touched?: Set<string>,
): Promise<void> {
  for (const sha256 of digests) {
    await writeOnce(join(folder, "blobs", toHex(sha256)), () => read(sha256), touched);
  }
}

/** A static folder as a LogReader's source. Paths are those of a log; nothing outside the folder is read. */
export function folderSource(folder: string): FetchResource {
  return async (path) => {
    if (!/^(checkpoint|tile\/[a-z0-9/.]{1,80}|blobs\/[0-9a-f]{64})$/.test(path) || path.includes(".."))
      return undefined;
    try {
      return await readFile(join(folder, path));
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code;
      if (code === "ENOENT" || code === "ENOTDIR" || code === "EISDIR") return undefined;
      throw new CountersignError("component-unreachable", `${join(folder, path)} can't be read: ${code}`, { cause });
    }
  };
}
