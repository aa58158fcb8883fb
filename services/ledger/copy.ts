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
  #blobs: string | undefined;

  constructor(options: { readonly db: Db; readonly folder: string }) {
    this.folder = options.folder;
    this.#db = options.db;
  }

  /**
   * Durable when it resolves. One caller at a time: the sequencer that leads.
   * @throws CountersignError `state-conflict` when the copy holds more already: another sequencer leads by now; and what
   *   the disk says
   */
  async keep({ size, note }: { readonly size: number; readonly note: Uint8Array }): Promise<void> {
    const since = await this.#held(size);
    const touched = new Set<string>();
    const { added, next } = await blobsSince(this.#db, this.#blobs);
    await writeBlobs(this.folder, added, async (sha256) => (await readBlob(this.#db, sha256))!, touched);
    await writeTiles(this.#db, this.folder, { from: since, to: size }, touched);
    for (const folder of touched) await syncFolder(folder);
    // Looked at again: one that was left behind while it wrote must not take the copy back.
    await this.#held(size);
    await writeFile(join(this.folder, "checkpoint"), note);
    await syncFolder(this.folder);
    // Only now that nothing refers to them: the partial tiles that wider ones have replaced.
    for (const path of replacedTiles(since, size)) await rm(join(this.folder, path), { force: true });
    this.#blobs = next;
  }

  /** How much the copy holds: at most `size`. */
  async #held(size: number): Promise<number> {
    const note = await this.#note();
    const held = note === undefined ? 0 : parseCheckpoint(parseNote(note).text).size;
    if (held <= size) return held;
    const message = `the copy in ${this.folder} holds ${held} entries, more than ${size}: another sequencer leads`;
    throw new CountersignError("state-conflict", message);
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
