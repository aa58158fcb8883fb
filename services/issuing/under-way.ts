import type { BatchKind, PendingBatch } from "../../store/batches.ts";

/** For so long work that is under way takes in more: then it ends, and its workflow hears of it. */
const OPEN_MS = 10_000;
/** Batches side by side in one work, its own among them. */
const SIDE_BY_SIDE = 8;
/** With those that wait for their turn; beyond it there are the workflow's other lanes. */
const MOST = 16;

interface Taken {
  readonly batch: string;
  /** true: it is done; false: it isn't, and its workflow has to be told of it */
  readonly end: (done: boolean) => void;
}

/**
 * Where a batch finds work of its lot under way in this process: it joins that, instead of a signal, a workflow task and
 * an activity of its own. Nothing is kept here that the database doesn't have: a batch whose work ends with the process is
 * one that nobody finished, as if its signal had been lost, and is found and announced as those are.
 */
export class UnderWay {
  readonly #open = new Map<string, Set<Joining>>();

  /**
   * Undefined: no work takes it in, and its workflow has to be told. Otherwise it resolves when that work is done with it,
   * with whether the batch is done as well.
   */
  offer({ id, lot, kind }: PendingBatch): Promise<boolean> | undefined {
    let least: Joining | undefined;
    for (const work of this.#open.get(`${kind}/${lot}`) ?? []) {
      if (work.takes && (least === undefined || work.length < least.length)) least = work;
    }
    return least?.take(id);
  }

  /**
   * Runs an activity's own batches, and those that join them. Resolves when all have ended, with how the own ones did.
   * @param own each is begun at once
   * @param joined works on one that joined; resolves with whether it is done and doesn't throw
   */
  async run(
    at: { readonly lot: string; readonly kind: BatchKind },
    own: readonly (() => Promise<void>)[],
    joined: (batch: string) => Promise<boolean>,
  ): Promise<PromiseSettledResult<void>[]> {
    const key = `${at.kind}/${at.lot}`;
    const work = new Joining(joined);
    const open = this.#open.get(key) ?? new Set();
    this.#open.set(key, open.add(work));
    try {
      const ended = await Promise.allSettled(own.map((begin) => work.own(begin)));
      await work.idle();
      return ended;
    } finally {
      open.delete(work);
      if (open.size === 0) this.#open.delete(key);
    }
  }
}

class Joining {
  readonly #work: (batch: string) => Promise<boolean>;
  readonly #timer = setTimeout(() => this.#close(), OPEN_MS);
  readonly #waiting: Taken[] = [];
  #running = 0;
  #closed = false;
  #ended: (() => void) | undefined;

  constructor(work: (batch: string) => Promise<boolean>) {
    this.#work = work;
  }

  get takes(): boolean {
    return !this.#closed && this.#running > 0 && this.length < MOST;
  }

  get length(): number {
    return this.#running + this.#waiting.length;
  }

  async own(begin: () => Promise<void>): Promise<void> {
    this.#running++;
    try {
      await begin();
    } catch (error) {
      // Its workflow has to hear of that soon: to answer a refusal, or to try again.
      this.#close();
      throw error;
    } finally {
      this.#next();
    }
  }

  take(batch: string): Promise<boolean> {
    return new Promise((end) => {
      const taken = { batch, end };
      if (this.#running < SIDE_BY_SIDE) void this.#begin(taken);
      else this.#waiting.push(taken);
    });
  }

  /** Resolves when nothing runs; nothing is taken in then. */
  async idle(): Promise<void> {
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#ended = resolve));
    this.#close();
  }

  /** Ends with what runs; what waits goes by way of its workflow. */
  #close(): void {
    clearTimeout(this.#timer);
    this.#closed = true;
    for (const { end } of this.#waiting.splice(0)) end(false);
  }

  async #begin({ batch, end }: Taken): Promise<void> {
    this.#running++;
    end(await this.#work(batch).catch(() => false));
    this.#next();
  }

  #next(): void {
    this.#running--;
    const next = this.#waiting.shift();
    if (next !== undefined) void this.#begin(next);
    else if (this.#running === 0) this.#ended?.();
  }
}
