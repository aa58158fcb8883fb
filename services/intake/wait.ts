import { doneBatches } from "../../store/batches.ts";
import type { Db } from "../../store/db.ts";

const EVERY_MS = 50;

/** Lets many requests wait for their batches with one small query every 50 ms between them, none when nobody waits. */
export class BatchWatch {
  readonly #db: Db;
  readonly #waiting = new Map<string, Set<() => void>>();
  #timer: NodeJS.Timeout | undefined;

  constructor(db: Db) {
    this.#db = db;
  }

  /** Resolves when the batch is done, or after `timeoutMs`: the caller looks. */
  async wait(batch: string, timeoutMs: number): Promise<void> {
    if (timeoutMs <= 0 || (await doneBatches(this.#db, [batch])).has(batch)) return;
    await new Promise<void>((resolve) => {
      const waiters = this.#waiting.get(batch) ?? new Set();
      this.#waiting.set(batch, waiters);
      const end = (): void => {
        clearTimeout(timer);
        waiters.delete(end);
        if (waiters.size === 0 && this.#waiting.get(batch) === waiters) this.#waiting.delete(batch);
        resolve();
      };
      const timer = setTimeout(end, timeoutMs);
      waiters.add(end);
      this.#timer ??= setTimeout(() => void this.#look(), EVERY_MS);
    });
  }

  close(): void {
    for (const waiters of [...this.#waiting.values()]) for (const end of [...waiters]) end();
    clearTimeout(this.#timer);
  }

  async #look(): Promise<void> {
    try {
      const done = await doneBatches(this.#db, [...this.#waiting.keys()]);
      for (const id of done) for (const end of [...(this.#waiting.get(id) ?? [])]) end();
    } catch {
      // Out of reach: the next look asks again, until the waiters' own time is up.
    }
    this.#timer = this.#waiting.size === 0 ? undefined : setTimeout(() => void this.#look(), EVERY_MS);
  }
}
