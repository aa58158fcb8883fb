import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseNote } from "../../lib/ledger/note.ts";
import type { WitnessedLog } from "../../store/witness.ts";
import { syncFolder, writeFile } from "../ledger/files.ts";
import { cosignedText, witnessedPath } from "./heads.ts";

/**
 * A witness's memory outside the database: the last checkpoint of each log that it cosigned, one file a log, there before
 * the cosignature is made. A database that was restored has forgotten what was cosigned since; this hasn't. One process
 * uses it at a time. Put it on another disk.
 */
export class WitnessMemory {
  readonly folder: string;
  #last: Promise<void> = Promise.resolve();

  constructor(folder: string) {
    this.folder = folder;
  }

  /** @throws what the disk says, and CountersignError `internal` of a file that was damaged: nothing is cosigned then */
  async last(origin: string): Promise<WitnessedLog | undefined> {
    const note = await this.at(witnessedPath(origin));
    if (note === undefined) return undefined;
    try {
      const { size, root } = cosignedText(parseNote(note).text);
      return { size, root, note };
    } catch (cause) {
      const file = join(this.folder, witnessedPath(origin));
      throw new CountersignError("internal", `${file} is damaged: what was cosigned of ${origin} can't be told`, {
        cause,
      });
    }
  }

  /** @param path as in `witnessedPath` */
  async at(path: string): Promise<Uint8Array | undefined> {
    try {
      return await readFile(join(this.folder, path));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  /** Durable when it resolves; one that a larger one has overtaken changes nothing. */
  keep(origin: string, { size, note }: WitnessedLog): Promise<void> {
    const kept = this.#last.then(async () => {
      if (((await this.last(origin))?.size ?? -1) > size) return;
      const file = join(this.folder, witnessedPath(origin));
      await writeFile(file, note);
      for (const folder of [dirname(file), this.folder]) await syncFolder(folder);
    });
    this.#last = kept.catch(() => undefined);
    return kept;
  }
}

/** The further of what a database and the files remember of a log: where both end alike, the files. */
export function furthest(stored: WitnessedLog | undefined, kept: WitnessedLog | undefined): WitnessedLog | undefined {
  return stored === undefined || (kept !== undefined && kept.size >= stored.size) ? (kept ?? stored) : stored;
}
