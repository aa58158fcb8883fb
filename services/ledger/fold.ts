import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { edgeTiles, tilePath } from "../../lib/ledger/tiles.ts";
import { syncFolder, writeOnce } from "./files.ts";
import type { Growth, StaticFile } from "./growth.ts";
import type { JournalRecord } from "./journal-codec.ts";
import type { Journal } from "./journal.ts";

/**
 * Brings the static log up to these records: what never changes first, then its edge, then the checkpoint, each on the
 * disk before the next. Ended anywhere, it is done again and finds its files there. After a fault the growth is of no
 * more use.
 * @throws CountersignError `ledger-forked`, `input-invalid`: see Growth; and what the disk says
 */
export async function fold(
  folder: string,
  journal: Journal,
  growth: Growth,
  records: readonly JournalRecord[],
): Promise<void> {
  const before = growth.size;
  const touched = new Set<string>();
  const write = async (files: readonly StaticFile[]): Promise<void> => {
    for (const { path, bytes } of files) await writeOnce(join(folder, path), async () => bytes, touched);
    // A bundle's hashes at a time: the process has others to serve.
    await setImmediate();
  };
  for (const record of records) for (const files of growth.add(record)) await write(files);
  const newest = records.find(({ to }) => to === growth.size);
  if (growth.size > before) await write(growth.edge(newest!.note));
  for (const one of touched) await syncFolder(one);
  if (growth.size === before) return;
  await journal.place("checkpoint", newest!.note);
  // Only now that nothing refers to them: the partial tiles that wider ones have replaced.
  for (const path of replacedTiles(before, growth.size)) await rm(join(folder, path), { force: true });
}

export function replacedTiles(before: number, now: number): string[] {
  const kept = new Set(tilesAtEdge(now));
  return tilesAtEdge(before).filter((path) => !kept.has(path));
}

function tilesAtEdge(size: number): string[] {
  return edgeTiles(size).flatMap((tile) =>
    tile.level === 0 ? [tilePath(tile), tilePath({ ...tile, level: "entries" })] : [tilePath(tile)],
  );
}
