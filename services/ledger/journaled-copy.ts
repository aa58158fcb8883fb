import { rm } from "node:fs/promises";
import { join } from "node:path";
import { CountersignError } from "../../lib/domain/errors.ts";
import { TILE_WIDTH } from "../../lib/ledger/tiles.ts";
import { staticSize } from "./copy-source.ts";
import { folderSource } from "./export.ts";
import { fold, replacedTiles } from "./fold.ts";
import { Growth } from "./growth.ts";
import type { JournalRecord } from "./journal-codec.ts";
import { Journal, readJournals } from "./journal.ts";

/** What was appended is folded after so long at the latest. */
const FOLD_MS = 2_000;
/** Or once there is so much. */
const FOLD_BYTES = 4 << 20;
const FOLD_BUNDLES = 16;
/** A journal file goes on to the next after so much. */
const FILE_BYTES = 8 << 20;
/** Whoever appends waits for the folding when so much waits for it. */
const MOST_BYTES = 64 << 20;

/** How many entries the folder and its journals hold. @throws CountersignError `input-invalid` for a damaged journal */
export async function heldSize(folder: string): Promise<number> {
  const records = await readJournals(folder);
  return records.reduce((size, { to }) => Math.max(size, to), await staticSize(folderSource(folder)));
}

/** A copy's folder in the hands of the sequencer that leads: appends to its journal, and folds that in the background. */
export class JournaledCopy {
  readonly #folder: string;
  readonly #journal: Journal;
  #growth: Growth;
  #held: number;
  /** durable in the journal, not yet in the static log */
  #waiting: JournalRecord[] = [];
  #waitingBytes = 0;
  #foldingBytes = 0;
  #folding: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #fault: unknown;

  private constructor(folder: string, journal: Journal, growth: Growth) {
    this.#folder = folder;
    this.#journal = journal;
    this.#growth = growth;
    this.#held = growth.size;
  }

  /**
   * Takes the copy over from whoever led before, and folds what is in the journals.
   * @throws CountersignError `state-conflict` when it holds more than `size`, `input-invalid` for a damaged journal
   */
  static async take(folder: string, size: number): Promise<JournaledCopy> {
    assertNotBeyond(folder, await heldSize(folder), size);
    const journal = await Journal.create(folder);
    try {
      const others = await journal.takeOthers();
      // Read now that nobody's writing counts any more.
      const records = await readJournals(folder);
      const growth = await Growth.of(folderSource(folder), await staticSize(folderSource(folder)));
      await fold(folder, journal, growth, records);
      for (const other of others) await rm(other, { recursive: true, force: true });
      assertNotBeyond(folder, growth.size, size);
      return new JournaledCopy(folder, journal, growth);
    } catch (error) {
      await journal.remove();
      throw error;
    }
  }

  get held(): number {
    return this.#held;
  }

  /** It has to be taken again. */
  get broken(): boolean {
    return this.#fault !== undefined;
  }

  /** @throws CountersignError `state-conflict` when it holds more than `size` */
  assertNotBeyond(size: number): void {
    assertNotBeyond(this.#folder, this.#held, size);
  }

  /** @throws CountersignError `state-conflict` when another leader has taken it */
  assertTaken(): Promise<void> {
    return this.#journal.assertHeld();
  }

  /** Goes on from static files of `size` that somebody has written to the folder meanwhile. */
  async adopt(size: number, note: Uint8Array): Promise<void> {
    if (this.broken) throw this.#fault;
    const before = this.#growth.size;
    await this.#journal.place("checkpoint", note);
    this.#growth = await Growth.of(folderSource(this.#folder), size);
    this.#held = size;
    for (const path of replacedTiles(before, size)) await rm(join(this.#folder, path), { force: true });
  }

  /** Durable when it resolves. One at a time; after a fault the copy has to be taken again. */
  async append(record: JournalRecord): Promise<void> {
    while (this.#waitingBytes + this.#foldingBytes > MOST_BYTES && this.#folding) await this.#folding;
    try {
      if (this.#journal.length > FILE_BYTES) await this.#journal.rotate();
      await this.#journal.append(record);
    } catch (error) {
      this.#fault = error;
      throw error;
    }
    this.#held = record.to;
    this.#waiting.push(record);
    this.#waitingBytes += bytesOf(record);
    this.#plan();
  }

  #plan(): void {
    if (this.#folding || this.#waiting.length === 0) return;
    const bundles = (this.#held - this.#growth.size) / TILE_WIDTH;
    if (bundles >= FOLD_BUNDLES || this.#waitingBytes >= FOLD_BYTES) this.#startFold();
    else this.#timer ??= setTimeout(() => this.#startFold(), FOLD_MS).unref();
  }

  #startFold(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#folding ??= this.#fold()
      .catch((error: unknown) => {
        // Nothing is lost: who takes the copy again folds the journal from its files, or says what is in the way.
        this.#fault = error;
      })
      .finally(() => {
        this.#folding = undefined;
        if (!this.broken) this.#plan();
      });
  }

  async #fold(): Promise<void> {
    const records = this.#waiting;
    this.#foldingBytes = this.#waitingBytes;
    this.#waiting = [];
    this.#waitingBytes = 0;
    const full = this.#journal.takeFull();
    await fold(this.#folder, this.#journal, this.#growth, records);
    for (const path of full) await rm(path, { force: true });
    this.#foldingBytes = 0;
  }

  /** Folds what waits, where that can be done. */
  async settle(): Promise<void> {
    await this.#folding;
    while (!this.broken && this.#waiting.length > 0) {
      this.#startFold();
      await this.#folding;
    }
    clearTimeout(this.#timer);
  }

  /** Nothing of it writes any more when it resolves. */
  async close(): Promise<void> {
    await this.settle();
    if (this.broken) await this.#journal.close();
    else await this.#journal.remove();
  }
}

function bytesOf({ note, entries, blobs }: JournalRecord): number {
  return [note, ...entries, ...blobs].reduce((sum, { length }) => sum + length, 0);
}

function assertNotBeyond(folder: string, held: number, size: number): void {
  if (held <= size) return;
  const message = `the copy in ${folder} holds ${held} entries, more than ${size}: another sequencer leads`;
  throw new CountersignError("state-conflict", message);
}
