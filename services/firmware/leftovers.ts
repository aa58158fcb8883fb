import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";

/**
 * Files under temporary names. A process that was killed leaves some behind, which no later attempt would find again
 * under names that are random.
 */

const TEMPORARY = /^(image\.[A-Za-z0-9]+|receipt\.json)\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp$/;

/** Of this process, between being written and getting their name or being taken away. */
const inUse = new Set<string>();

export function hold(files: readonly string[]): void {
  for (const file of files) inUse.add(file);
}

/** They have their names. */
export function letGo(files: readonly string[]): void {
  for (const file of files) inUse.delete(file);
}

export async function takeAway(files: readonly string[]): Promise<void> {
  await Promise.all(files.map((file) => rm(file, { force: true })));
  letGo(files);
}

/**
 * Takes away what an attempt that is over left in these folders: of this module's names only, last written before
 * `before` (milliseconds), and not at work in this process. Should another process work on the same device at the same
 * time, it can't give its file the name, records nothing and is tried again.
 * @throws what the file system throws, but for folders and files that aren't there
 */
export async function removeLeftovers(folders: readonly string[], before: number): Promise<void> {
  for (const folder of folders) {
    for (const name of await namesIn(folder)) {
      const file = join(folder, name);
      if (!TEMPORARY.test(name) || inUse.has(file)) continue;
      const found = await stat(file).catch(() => undefined);
      if (found?.isFile() === true && found.mtimeMs < before) await rm(file, { force: true });
    }
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
