import { isCountersignError } from "../lib/domain/errors.ts";
import type { ActType } from "../lib/records/acts.ts";
import { inTransaction, type Db } from "../store/db.ts";
import type { ActDraft, Acts, AnyActDraft, RecordedAct } from "../services/ledger/acts.ts";

interface Waiting {
  readonly draft: AnyActDraft;
  readonly resolve: (act: RecordedAct) => void;
  readonly reject: (error: unknown) => void;
}

/** In one transaction; and transactions under way, so that one is filled while another is on its way to the disk. */
const TOGETHER = 256;
const LANES = 2;

/**
 * Records line records of callers that have nothing else to commit: those who come while a transaction is under way share
 * the next. An answer means what it means after a transaction of one's own: the act is durable, and queued.
 */
export class LineWriter {
  readonly #db: Db;
  readonly #acts: Acts;
  readonly #waiting: Waiting[] = [];
  #lanes = 0;

  constructor(db: Db, acts: Acts) {
    this.#db = db;
    this.#acts = acts;
  }

  /** @throws CountersignError `act-invalid`, `act-conflict`, as `Acts.recordLines`: each caller its own draft's alone */
  record<T extends ActType>(draft: ActDraft<T>): Promise<RecordedAct> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ draft: draft as unknown as AnyActDraft, resolve, reject });
      if (this.#lanes >= LANES) return;
      this.#lanes++;
      // A turn of the event loop gathers those who come together.
      setImmediate(() => void this.#write());
    });
  }

  async #write(): Promise<void> {
    while (this.#waiting.length > 0) await this.#commit(this.#waiting.splice(0, TOGETHER));
    this.#lanes--;
  }

  async #commit(group: readonly Waiting[]): Promise<void> {
    try {
      const drafts = group.map(({ draft }) => draft);
      const recorded = await inTransaction(this.#db, (tx) => this.#acts.recordLines(tx, drafts));
      for (const [i, { resolve }] of group.entries()) resolve(recorded[i]!);
    } catch (error) {
      // A draft that doesn't hold fails all that came with it: each by itself then.
      if (group.length > 1 && isCountersignError(error)) for (const one of group) await this.#commit([one]);
      else for (const { reject } of group) reject(error);
    }
  }
}
