import { parseCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { parseNote } from "../../lib/ledger/note.ts";
import type { FetchResource } from "../../lib/ledger/reader.ts";
import { Growth, type StaticFile } from "./growth.ts";
import { readJournals } from "./journal.ts";

/**
 * A site's copy of its ledger as one static log: the folder, and what only its journals hold yet. Nothing is written.
 * Looked at again whenever `checkpoint` is asked for.
 * @param fetch reads the folder
 */
export function journaledSource(folder: string, fetch: FetchResource): FetchResource {
  let newer: Promise<ReadonlyMap<string, Uint8Array>> | undefined;
  return async (path) => {
    if (path === "checkpoint") newer = undefined;
    newer ??= grown(folder, fetch);
    return (await newer).get(path) ?? fetch(path);
  };
}

async function grown(folder: string, fetch: FetchResource): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  const put = (some: readonly StaticFile[]): void => some.forEach(({ path, bytes }) => files.set(path, bytes));
  // In this order: what is folded meanwhile is found in the folder.
  const records = await readJournals(folder);
  if (records.length === 0) return files;
  const growth = await Growth.of(fetch, await staticSize(fetch));
  const before = growth.size;
  for (const record of records) for (const some of growth.add(record)) put(some);
  if (growth.size === before) return files;
  const { note } = records.find(({ to }) => to === growth.size)!;
  put(growth.edge(note));
  files.set("checkpoint", note);
  return files;
}

/** How much the folder itself holds. */
export async function staticSize(fetch: FetchResource): Promise<number> {
  const note = await fetch("checkpoint");
  return note === undefined ? 0 : parseCheckpoint(parseNote(note).text).size;
}
