import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { syncFolder } from "./files.ts";
import { decodeJournal, encodeFileHeader, encodeRecord, ID_BYTES, type JournalRecord } from "./journal-codec.ts";

/** Written before it is needed: to write over what is there, the disk has one thing to do and not several. */
const PREALLOCATED = 1 << 20;
const ZEROS = new Uint8Array(PREALLOCATED);

const journalsOf = (folder: string): string => join(folder, "journal");

/**
 * A leader's journal: files in a folder of its own, `journal/<random>/`. Who takes over renames that folder before it
 * reads what is in it, so one that was left behind notices after it wrote and before anything is published, and what it
 * moves into place from there is no longer where it was.
 */
export class Journal {
  readonly #copy: string;
  readonly #name = toHex(randomBytes(8));
  readonly #full: string[] = [];
  #files = 0;
  #file: { handle: FileHandle; path: string; id: Uint8Array; end: number } | undefined;

  private constructor(copy: string) {
    this.#copy = copy;
  }

  static async create(copy: string): Promise<Journal> {
    const journal = new Journal(copy);
    try {
      await mkdir(journal.folder, { recursive: true });
      await journal.#create();
      await syncFolder(journalsOf(copy));
      await syncFolder(copy);
      return journal;
    } catch (error) {
      await journal.remove();
      throw error;
    }
  }

  get folder(): string {
    return join(journalsOf(this.#copy), this.#name);
  }

  /** Bytes in the file that is written to. */
  get length(): number {
    return this.#file?.end ?? 0;
  }

  /** Durable, and this journal's still, when it resolves. After a fault nothing may be appended any more. */
  async append(record: JournalRecord): Promise<void> {
    const file = this.#file!;
    const bytes = encodeRecord(file.id, record);
    await writeAll(file.handle, bytes, file.end);
    await file.handle.datasync();
    await this.assertHeld();
    file.end += bytes.length;
  }

  /** @throws CountersignError `state-conflict` when another leader has taken it */
  async assertHeld(): Promise<void> {
    const there = await stat(this.folder).then(
      () => true,
      () => false,
    );
    if (there) return;
    throw new CountersignError("state-conflict", `${this.#copy}: another sequencer leads and has taken the journal`);
  }

  /** Goes on in a new file. The caller lets nothing be appended meanwhile. */
  async rotate(): Promise<void> {
    const full = this.#file;
    await this.#create();
    if (full === undefined) return;
    await full.handle.close();
    this.#full.push(full.path);
  }

  /** The files that are gone on from, once: they go when what they hold is folded. */
  takeFull(): string[] {
    return this.#full.splice(0);
  }

  /** Moves bytes to a path of the copy, whole and durably or not at all; not at all where another leader has taken over. */
  async place(name: string, bytes: Uint8Array): Promise<void> {
    const temporary = join(this.folder, `${name}.new`);
    const file = await open(temporary, "w", 0o644);
    try {
      await file.writeFile(bytes);
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(temporary, join(this.#copy, name));
    await syncFolder(this.#copy);
  }

  /** Takes every other journal from whoever may still write to it. Gives what is to be removed once it is folded. */
  async takeOthers(): Promise<string[]> {
    const taken: string[] = [];
    for (const name of await readdir(journalsOf(this.#copy))) {
      if (name === this.#name) continue;
      const path = join(journalsOf(this.#copy), toHex(randomBytes(8)));
      await rename(join(journalsOf(this.#copy), name), path);
      taken.push(path);
    }
    return taken;
  }

  async close(): Promise<void> {
    await this.#file?.handle.close().catch(() => undefined);
    this.#file = undefined;
  }

  /** When the copy holds it all elsewhere. */
  async remove(): Promise<void> {
    await this.close();
    await rm(this.folder, { recursive: true, force: true });
  }

  async #create(): Promise<void> {
    const path = join(this.folder, String(++this.#files).padStart(8, "0"));
    const id = randomBytes(ID_BYTES);
    const handle = await open(path, "wx", 0o644);
    try {
      const header = encodeFileHeader(id);
      await writeAll(handle, ZEROS, 0);
      await writeAll(handle, header, 0);
      await handle.sync();
      await syncFolder(this.folder);
      this.#file = { handle, path, id, end: header.length };
    } catch (error) {
      await handle.close();
      throw error;
    }
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += (await handle.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
  }
}

/**
 * What every journal of a copy holds, by size; some of it may be in the folder already, or there twice.
 * @throws CountersignError `input-invalid` for a damaged one
 */
export async function readJournals(copy: string): Promise<JournalRecord[]> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await readOnce(copy);
    } catch (error) {
      // Somebody folds them just now: what was here is there.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT" || attempt === 5) throw error;
    }
  }
}

async function readOnce(copy: string): Promise<JournalRecord[]> {
  const records: JournalRecord[] = [];
  const names = await readdir(journalsOf(copy)).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
    throw error;
  });
  for (const name of names) {
    const journal = join(journalsOf(copy), name);
    for (const file of (await readdir(journal)).filter((one) => /^\d+$/.test(one)).sort()) {
      const path = join(journal, file);
      for (const record of decodeJournal(await readFile(path), path)) {
        records.push(record);
        await setImmediate();
      }
    }
  }
  return records.sort((a, b) => a.from - b.from || a.to - b.to);
}
