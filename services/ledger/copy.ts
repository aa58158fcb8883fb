import type { VerifySignature } from "../../lib/domain/signing.ts";
import { toHex } from "../../lib/domain/bytes.ts";
import { openCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { ed25519Raw, KEY_TYPE, noteKey } from "../../lib/ledger/note.ts";
import type { Db } from "../../store/db.ts";
import { blobsSince, readBlob, readBlobs, readEntries } from "../../store/ledger.ts";
import { journaledSource } from "./copy-source.ts";
import { folderSource, writeBlobs, writeTiles } from "./export.ts";
import { syncFolder } from "./files.ts";
import { JournaledCopy } from "./journaled-copy.ts";
import type { Sighting } from "./sighting.ts";

/** More than this is written to the folder itself, and not by way of the journal. */
const MOST_ENTRIES = 8_192;
const MOST_BLOBS = 256;

export interface KeptCheckpoint {
  readonly size: number;
  /** the log's signed checkpoint */
  readonly note: Uint8Array;
  /** entries from `first` on that the caller has at hand; the others are read */
  readonly added?: { readonly first: number; readonly entries: readonly Uint8Array[] };
}

/** Where the next look for blobs begins, and those (hex) that it may come upon again. */
interface LookedFor {
  readonly since: string;
  readonly known: ReadonlySet<string>;
}

/**
 * A site's own copy of its ledger outside the database, brought up to every checkpoint before that is published. So
 * whatever becomes of the database, nothing was ever shown that isn't in the copy: it says how far the ledger got, and
 * the database is rebuilt from it. Put it on another disk.
 *
 * It is a static log, and beside it, in `journal/`, what has come in since: one record a checkpoint, one write to the
 * disk. Every few seconds the journal is folded into the static log.
 */
export class LedgerCopy {
  readonly folder: string;
  readonly #db: Db;
  #copy: JournaledCopy | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #blobs: LookedFor | undefined;

  constructor(options: { readonly db: Db; readonly folder: string }) {
    this.folder = options.folder;
    this.#db = options.db;
  }

  /**
   * Durable when it resolves; only by the sequencer that leads.
   * @throws CountersignError `state-conflict` when the copy holds more already or was taken: another sequencer leads by
   *   now; `input-invalid` when its journal is damaged; and what the disk says
   */
  keep(checkpoint: KeptCheckpoint): Promise<void> {
    return this.#inTurn(() => this.#keep(checkpoint));
  }

  /** Folds what is in the journal. It may be gone on with. */
  close(): Promise<void> {
    return this.#inTurn(() => this.#letGo());
  }

  async #keep({ size, note, added }: KeptCheckpoint): Promise<void> {
    if (this.#copy?.broken) await this.#letGo();
    this.#copy ??= await this.#take(size);
    const copy = this.#copy;
    copy.assertNotBeyond(size);
    const { blobs, next } = await this.#newBlobs();
    if (size - copy.held > MOST_ENTRIES) await this.#writeStatic(copy, { size, note });
    const behind = copy.held;
    if (size === behind && blobs.length === 0) await copy.assertTaken();
    else {
      const entries = await this.#entries(behind, size, added);
      await copy.append({ from: behind, to: size, note, entries, blobs });
    }
    this.#blobs = next;
  }

  async #take(size: number): Promise<JournaledCopy> {
    this.#blobs = undefined;
    return JournaledCopy.take(this.folder, size);
  }

  async #letGo(): Promise<void> {
    const copy = this.#copy;
    this.#copy = undefined;
    await copy?.close();
  }

  async #entries(from: number, to: number, added: KeptCheckpoint["added"]): Promise<Uint8Array[]> {
    const known = added ?? { first: to, entries: [] };
    if (from >= known.first) return known.entries.slice(from - known.first, to - known.first);
    return [...(await readEntries(this.#db, from, Math.min(to, known.first))), ...known.entries];
  }

  /** The blobs that came in since the last look. The first look, and one that finds many, writes them itself. */
  async #newBlobs(): Promise<{ blobs: Uint8Array[]; next: LookedFor }> {
    const { added, next } = await blobsSince(this.#db, this.#blobs?.since);
    const unknown = added.filter((sha256) => !this.#blobs?.known.has(toHex(sha256)));
    let blobs: Uint8Array[] = [];
    if (this.#blobs === undefined || unknown.length > MOST_BLOBS) {
      const touched = new Set<string>();
      await writeBlobs(this.folder, unknown, async (sha256) => (await readBlob(this.#db, sha256))!, touched);
      for (const folder of touched) await syncFolder(folder);
    } else if (unknown.length > 0) {
      blobs = await readBlobs(this.#db, unknown);
    }
    return { blobs, next: { since: next, known: new Set(added.map(toHex)) } };
  }

  /** A copy that is new, or far behind. */
  async #writeStatic(copy: JournaledCopy, { size, note }: KeptCheckpoint): Promise<void> {
    await copy.settle();
    const touched = new Set<string>();
    await writeTiles(this.#db, this.folder, { from: copy.held, to: size }, touched);
    for (const folder of touched) await syncFolder(folder);
    await copy.adopt(size, note);
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  /**
   * How far the copy goes; undefined when there is none.
   * @throws CountersignError `note-invalid`, `checkpoint-invalid` when it isn't this log's, `input-invalid` when its
   *   journal is damaged
   */
  async seen(origin: string, spki: Uint8Array, verify: VerifySignature): Promise<Sighting | undefined> {
    const note = await journaledSource(this.folder, folderSource(this.folder))("checkpoint");
    if (note === undefined) return undefined;
    const log = noteKey(origin, KEY_TYPE.ed25519, ed25519Raw(spki));
    const { size, root } = await openCheckpoint(note, log, verify);
    return { where: `the copy in ${this.folder}`, size, root };
  }
}
