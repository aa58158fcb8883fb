import { BATCH_CHANNEL, doneBatches } from "../../store/batches.ts";
import type { Db } from "../../store/db.ts";
import { keepListening, type Subscription } from "../../store/listen.ts";

/** Stands in for notifications that got lost. */
const EVERY_MS = 500;

/** Lets many requests wait for their batches: one connection hears of finished ones, one small query asks for everybody. */
export class BatchWatch {
  readonly #db: Db;
  readonly #waiting = new Map<string, Set<() => void>>();
  #subscription: Subscription | undefined;
  #subscribing: Promise<void> | undefined;
  #poll: NodeJS.Timeout | undefined;
  #looking = false;
  #due = false;
  #closed = false;

  constructor(db: Db) {
    this.#db = db;
  }

  /** Resolves when the batch is done, or after `timeoutMs`: the caller looks. */
  async wait(batch: string, timeoutMs: number): Promise<void> {
    if (timeoutMs <= 0 || this.#closed) return;
    await new Promise<void>((resolve) => {
      const waiters = this.#waiting.get(batch) ?? new Set();
      this.#waiting.set(batch, waiters);
      const end = (): void => {
        clearTimeout(timer);
        waiters.delete(end);
        if (waiters.size === 0 && this.#waiting.get(batch) === waiters) this.#waiting.delete(batch);
        if (this.#waiting.size === 0) this.#rest();
        resolve();
      };
      const timer = setTimeout(end, timeoutMs);
      waiters.add(end);
      this.#poll ??= setInterval(() => this.#look(), EVERY_MS);
      // Waiting first and looking then: a batch that is finished in between is seen by one or the other.
      this.#subscribe();
      this.#look();
    });
  }

  close(): void {
    this.#closed = true;
    for (const waiters of [...this.#waiting.values()]) for (const end of [...waiters]) end();
    this.#rest();
    this.#subscription?.close();
  }

  #rest(): void {
    clearInterval(this.#poll);
    this.#poll = undefined;
  }

  #subscribe(): void {
    if (this.#subscription !== undefined || this.#subscribing !== undefined) return;
    this.#subscribing = keepListening(this.#db, BATCH_CHANNEL, () => this.#look()).then(
      (subscription) => {
        if (this.#closed) subscription.close();
        else this.#subscription = subscription;
        this.#look();
      },
      // Out of reach: the poll goes on, and the next wait subscribes again.
      () => (this.#subscribing = undefined),
    );
  }

  /** One query at a time; what becomes due meanwhile is asked after it. */
  #look(): void {
    this.#due = true;
    if (this.#looking) return;
    this.#looking = true;
    // A turn of the event loop gathers what comes together.
    setImmediate(() => void this.#ask());
  }

  async #ask(): Promise<void> {
    try {
      while (this.#due && this.#waiting.size > 0 && !this.#closed) {
        this.#due = false;
        const done = await doneBatches(this.#db, [...this.#waiting.keys()]);
        for (const id of done) for (const end of [...(this.#waiting.get(id) ?? [])]) end();
      }
    } catch {
      // Out of reach: the poll asks again, until the waiters' own time is up.
    } finally {
      this.#looking = false;
    }
  }
}
