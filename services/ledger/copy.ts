import { open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { openCheckpoint, parseCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { ed25519Raw, KEY_TYPE, noteKey, parseNote } from "../../lib/ledger/note.ts";
import { edgeTiles, tilePath } from "../../lib/ledger/tiles.ts";
import type { Db } from "../../store/db.ts";
import { blobsSince, readBlob } from "../../store/ledger.ts";
import { writeBlobs, writeTiles, writeFile } from "./export.ts";
import type { Sighting } from "./sighting.ts";

/**
 * A site's own copy of its ledger outside the database, as a static log, brought up to every checkpoint before that is
 * published. So whatever becomes of the database, nothing was ever shown that isn't in the copy: it says how far the
 * ledger got, and the database is rebuilt from it. Put it on another disk.
 */
export class LedgerCopy {
  readonly folder: string;
  readonly #db: Db;
  /** of the checkpoint that the folder holds; undefined until it was looked at */
  #size: number | undefined;
  #blobs: string | undefined;

  constructor(options: { readonly db: Db; readonly folder: string }) {
    this.folder = options.folder;
    this.#db = options.db;
  }

  /**
   * Durable when it resolves. One caller at a time: the sequencer.
   * @throws CountersignError `ledger-behind` when the copy holds more already; and what the disk says
   */
  async keep({ size, note }: { readonly size: number; readonly note: Uint8Array }): Promise<void> {
    const since = (this.#size ??= await this.#held());
    if (since > size) {
      throw new CountersignError(
        "ledger-behind",
        `the copy in ${this.folder} holds ${since} entries, more than ${size}`,
      );
    }
    const touched = new Set<string>();
    const { added, next } = await blobsSince(this.#db, this.#blobs);
    await writeBlobs(this.folder, added, async (sha256) => (await readBlob(this.#db, sha256))!, touched);
    await writeTiles(this.#db, this.folder, { from: since, to: size }, touched);
    for (const folder of touched) await syncFolder(folder);
    await writeFile(join(this.folder, "checkpoint"), note);
    await syncFolder(this.folder);
    // Only now that nothing refers to them: the partial tiles that wider ones have replaced.
    for (const path of replacedTiles(since, size)) await rm(join(this.folder, path), { force: true });
    this.#size = size;
    this.#blobs = next;
  }

  async #held(): Promise<number> {
    const note = await this.#note();
    return note === undefined ? 0 : parseCheckpoint(parseNote(note).text).size;
  }

  async #note(): Promise<Uint8Array | undefined> {
    try {
      return await readFile(join(this.folder, "checkpoint"));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  /**
   * How far the copy goes; undefined when there is none.
   * @throws CountersignError `note-invalid`, `checkpoint-invalid` when it isn't this log's
   */
  async seen(origin: string, spki: Uint8Array, verify: VerifySignature): Promise<Sighting | undefined> {
    const note = await this.#note();
    if (note === undefined) return undefined;
    const log = noteKey(origin, KEY_TYPE.ed25519, ed25519Raw(spki));
    const { size, root } = await openCheckpoint(note, log, verify);
    return { where: `the copy in ${this.folder}`, size, root };
  }
}

function replacedTiles(before: number, now: number): string[] {
  const kept = new Set(tilesAtEdge(now));
  return tilesAtEdge(before).filter((path) => !kept.has(path));
}

function tilesAtEdge(size: number): string[] {
  return edgeTiles(size).flatMap((tile) =>
    tile.level === 0 ? [tilePath(tile), tilePath({ ...tile, level: "entries" })] : [tilePath(tile)],
  );
}

/** A file is there after a power cut when its folder says so. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
