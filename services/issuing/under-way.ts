import type { BatchKind, PendingBatch } from "../../store/batches.ts";
import { isGathered } from "./gather.ts";

/** For so long work that is under way takes in more: then it ends, and its workflow hears of it. */
const OPEN_MS = 10_000;
/**
 * And for so long it stays open when nothing is left to do: stations post their next batch when they have the answer to
 * the one before. It delays nothing, as answers don't wait for the work's end.
 */
const LINGER_MS = 250;
/**
 * Batches side by side in one work, its own among them. Small ones to be certified, which are worked on together, weigh
 * less.
 */
const SIDE_BY_SIDE = 8;
/** With those that wait for their turn; beyond it there are the workflow's other lanes. */
const MOST = 16;
/** Of what another weighs. A power of two: sums of it are exact. */
const SMALL_WEIGHS = 1 / 8;

interface Taken {
  readonly batch: string;
  readonly weight: number;
  /** true: it is done; false: it isn't, and its workflow has to be told of it */
  readonly end: (done: boolean) => void;
}

/**
 * Where a batch finds work of its lot under way in this process: it joins that, instead of a signal, a workflow task and
 * an activity of its own. Nothing is kept here that the database doesn't have: a batch whose work ends with the process is
 * one that nobody finished, as if its signal had been lost, and is found and announced as those are.
 */
export class UnderWay {
  /** by lot */
  readonly #open = new Map<string, Set<Joining>>();
  readonly #lanes: number;

  /** @param lanes how many activities a lot's workflow has at once */
  constructor(lanes: number) {
    this.#lanes = lanes;
  }

  /**
   * Undefined: no work takes it in, and its workflow has to be told. Otherwise it resolves when that work is done with it,
   * with whether the batch is done as well.
   */
  offer(batch: PendingBatch): Promise<boolean> | undefined {
    const { id, lot, kind } = batch;
    const open = [...(this.#open.get(lot) ?? [])];
    const taking = open.filter((work) => work.takes).sort((a, b) => a.length - b.length);
    const work = taking.find((one) => one.kind === kind);
    if (work !== undefined) return work.take(id, isGathered(batch) ? SMALL_WEIGHS : 1);
    // It waits for a lane of its workflow: those that come after it mustn't keep all of them.
    if (open.length >= this.#lanes) taking[0]?.takeNoMore();
    return undefined;
  }

  /**
   * Runs an activity's own batches, and those that join them. Resolves when all have ended, with how the own ones did.
   * @param at `queued`: others wait for this lane already, so that none joins any more once the own ones have ended;
   *   `small`: the own ones are worked on together
   * @param own each is begun at once
   * @param joined works on one that joined; resolves with whether it is done and doesn't throw
   */
  async run(
    at: {
      readonly lot: string;
      readonly kind: BatchKind;
      readonly queued?: boolean | undefined;
      readonly small?: true | undefined;
    },
    own: readonly (() => Promise<void>)[],
    joined: (batch: string) => Promise<boolean>,
  ): Promise<PromiseSettledResult<void>[]> {
    const work = new Joining(at.kind, joined);
    const open = this.#open.get(at.lot) ?? new Set();
    this.#open.set(at.lot, open.add(work));
    try {
      const ended = await Promise.allSettled(own.map((begin) => work.own(begin, at.small === true ? SMALL_WEIGHS : 1)));
      if (at.queued === true) work.takeNoMore();
      await work.idle();
      return ended;
    } finally {
      open.delete(work);
      if (open.size === 0) this.#open.delete(at.lot);
    }
  }
}

class Joining {
  readonly kind: BatchKind;
  readonly #work: (batch: string) => Promise<boolean>;
  readonly #timer = setTimeout(() => this.#close(), OPEN_MS);
  readonly #waiting: Taken[] = [];
  /** by weight */
  #running = 0;
  #closed = false;
  /** wakes `idle` */
  #changed: (() => void) | undefined;

  constructor(kind: BatchKind, work: (batch: string) => Promise<boolean>) {
    this.kind = kind;
    this.#work = work;
  }

  get takes(): boolean {
    return !this.#closed && this.length < MOST;
  }

  get length(): number {
    return this.#waiting.reduce((sum, { weight }) => sum + weight, this.#running);
  }

  async own(begin: () => Promise<void>, weight: number): Promise<void> {
    this.#running += weight;
    try {
      await begin();
    } catch (error) {
      // Its workflow has to hear of that soon: to answer a refusal, or to try again.
      this.#close();
      throw error;
    } finally {
      this.#next(weight);
    }
  }

  take(batch: string, weight: number): Promise<boolean> {
    return new Promise((end) => {
      const taken = { batch, weight, end };
      if (this.#running < SIDE_BY_SIDE) void this.#begin(taken);
      else this.#waiting.push(taken);
    });
  }

  /** Ends with what it has, and what waits in it. */
  takeNoMore(): void {
    this.#closed = true;
    this.#changed?.();
  }

  /** Resolves when nothing runs and nothing more came; nothing is taken in then. */
  async idle(): Promise<void> {
    const changed = (): Promise<void> => new Promise((resolve) => (this.#changed = resolve));
    do {
      while (this.#running > 0) await changed();
      if (this.#closed) break;
      const timer = setTimeout(() => this.#changed?.(), LINGER_MS);
      await changed();
      clearTimeout(timer);
    } while (this.#running > 0);
    this.#close();
  }

  /** Ends with what runs; what waits goes by way of its workflow. */
  #close(): void {
    clearTimeout(this.#timer);
    this.takeNoMore();
    for (const { end } of this.#waiting.splice(0)) end(false);
  }

  async #begin({ batch, weight, end }: Taken): Promise<void> {
    this.#running += weight;
    this.#changed?.();
    end(await this.#work(batch).catch(() => false));
    this.#next(weight);
  }

  /** @param ended what has ended weighed so much */
  #next(ended: number): void {
    this.#running -= ended;
    while (this.#waiting.length > 0 && this.#running < SIDE_BY_SIDE) void this.#begin(this.#waiting.shift()!);
    this.#changed?.();
  }
}
