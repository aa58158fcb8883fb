import { mkdir, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { parseNote } from "../../../lib/ledger/note.ts";
import { parseCheckpoint } from "../../../lib/ledger/checkpoint.ts";
import type { FetchResource } from "../../../lib/ledger/reader.ts";
import {
  decodeBundle,
  hashesAtLevel,
  MAX_TILE_LEVEL,
  TILE_WIDTH,
  tilePath,
  tileWidth,
  type TileId,
} from "../../../lib/ledger/tiles.ts";
import { parseEntry } from "../../../lib/records/statement.ts";

const PARALLEL = 8;

/** How long a log's witnesses may take over its newest checkpoint. */
const COSIGNED_MS = 30_000;

/**
 * Copies a served log into a folder as static tlog-tiles, with the blobs that its acts name: tiles and blobs first, the
 * checkpoint last and by rename, so that a copy cut short is never taken for a whole one. The checkpoint is one that a
 * quorum has cosigned and that holds all there was when the copy began; older cosigned ones lie beside it. Nothing is
 * verified here: what reads the folder verifies it.
 * @throws CountersignError `component-unreachable`, `witnesses-missing`, `tile-invalid` when the log doesn't serve what
 *   its checkpoint needs
 */
export async function mirrorLog(
  fetch: FetchResource,
  folder: string,
): Promise<{ size: number; checkpoint: Uint8Array }> {
  const { note, size } = await cosignedCheckpoint(fetch);
  const blobs = new Set<string>();
  await inParallel(tilesOf(size), async (tile) => {
    const bytes = await need(fetch, tilePath(tile));
    if (tile.level === "entries") for (const entry of decodeBundle(bytes, tile.width)) collectBlobs(entry, blobs);
    await put(join(folder, tilePath(tile)), bytes);
  });
  await inParallel(blobs, async (sha) => put(join(folder, "blobs", sha), await need(fetch, `blobs/${sha}`)));
  const cosigned = await cosignedSizes(fetch, size);
  await inParallel(cosigned, async (at) =>
    put(join(folder, "cosigned", String(at)), await need(fetch, `cosigned/${at}`)),
  );
  await put(join(folder, "checkpoint"), note);
  return { size, checkpoint: note };
}

async function cosignedCheckpoint(fetch: FetchResource): Promise<{ note: Uint8Array; size: number }> {
  const sizeOf = (note: Uint8Array): number => parseCheckpoint(parseNote(note).text).size;
  const newest = await need(fetch, "checkpoint");
  const wanted = sizeOf(newest);
  // An empty log has nothing to witness.
  if (wanted === 0) return { note: newest, size: 0 };
  for (const deadline = performance.now() + COSIGNED_MS; performance.now() < deadline; await sleep(100)) {
    const note = await fetch("cosigned/newest");
    const size = note === undefined ? 0 : sizeOf(note);
    if (note !== undefined && size >= wanted) return { note, size };
  }
  throw new CountersignError(
    "witnesses-missing",
    `no quorum of witnesses has cosigned ${wanted} entries of ${parseCheckpoint(parseNote(newest).text).origin}: are the other sites up?`,
  );
}

/** Older cosigned checkpoints, below `size`. */
async function cosignedSizes(fetch: FetchResource, size: number): Promise<number[]> {
  const sizes: number[] = [];
  for (let from = 0; from < size;) {
    const page = new TextDecoder()
      .decode(await need(fetch, `cosigned/from/${from}`))
      .split("\n")
      .slice(0, -1)
      .map(Number);
    if (page.length === 0 || page.some((at) => !Number.isSafeInteger(at) || at < from)) break;
    sizes.push(...page.filter((at) => at < size));
    from = page.at(-1)! + 1;
  }
  return sizes;
}

function* tilesOf(size: number): Generator<TileId> {
  for (let level = 0; level <= MAX_TILE_LEVEL && hashesAtLevel(size, level) > 0; level++) yield* row(size, level);
  yield* row(size, "entries");
}

function* row(size: number, level: number | "entries"): Generator<TileId> {
  const count = Math.ceil(hashesAtLevel(size, level === "entries" ? 0 : level) / TILE_WIDTH);
  for (let index = 0; index < count; index++) yield { level, index, width: tileWidth(size, level, index) };
}

function collectBlobs(entry: Uint8Array, blobs: Set<string>): void {
  const { act } = parseEntry(entry);
  for (const { sha256 } of act.blobs) blobs.add(sha256);
  if ("intake" in act.fields && act.fields.intake.kind === "manifest") blobs.add(act.fields.intake.digest);
}

async function need(fetch: FetchResource, path: string): Promise<Uint8Array> {
  const bytes = await fetch(path);
  if (!bytes) throw new CountersignError("tile-invalid", `the ledger doesn't serve ${path}`);
  return bytes;
}

async function put(path: string, bytes: Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const partial = `${path}.part`;
  await writeFile(partial, bytes);
  await rename(partial, path);
}

/** Runs `work` over all items, at most eight at a time; the first failure ends it. */
export async function inParallel<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
  const iterator = items[Symbol.iterator]();
  const lane = async (): Promise<void> => {
    for (let next = iterator.next(); !next.done; next = iterator.next()) await work(next.value);
  };
  await Promise.all(Array.from({ length: PARALLEL }, lane));
}
