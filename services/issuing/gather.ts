import type { BatchSize, PendingBatch } from "../../store/batches.ts";
import type { OnProgress } from "./context.ts";

/** Batches of so many items at most are gathered: larger ones carry what a batch costs by themselves. */
const SMALL_BATCH = 16;
/** Items of one group. */
const MOST_ITEMS = 256;
/** Groups of one lot at once: while one is at its ledger or its HSM, another is checked and stored. */
const GROUPS = 2;
/** So long a group keeps those that come later waiting: one that hangs isn't for ever in their way. */
const HOLDS_MS = 60_000;
/** Batches of a group that failed, each tried by itself. */
const SIDE_BY_SIDE = 8;

/** Whether a batch is so small that it is worked on together with others. */
export function isGathered({ kind, count }: Pick<PendingBatch, "kind" | "count">): boolean {
  return kind === "certify" && count <= SMALL_BATCH;
}

interface Arrived {
  readonly batch: string;
  readonly onProgress: OnProgress | undefined;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

interface LotOfSmall {
  readonly waiting: (Arrived & { readonly count: number })[];
  groups: number;
}

/**
 * Works on small batches of a lot together, so that stations that hand in one CSR a request don't cost a batch's
 * transactions each. Nothing waits for time to pass: an idle lot begins at once, and what comes while it is at work is
 * the next group. Nothing is kept here that the database doesn't have.
 */
export class Gatherer {
  readonly #sizes: (batches: readonly string[]) => Promise<ReadonlyMap<string, BatchSize>>;
  readonly #work: (batches: readonly string[], onProgress: OnProgress) => Promise<void>;
  readonly #arrived: Arrived[] = [];
  #sorting = false;
  readonly #lots = new Map<string, LotOfSmall>();

  /**
   * @param options.sizes of these batches, those that there are
   * @param options.work on batches of one lot together; safe to run again, and beside itself
   */
  constructor(options: {
    sizes: (batches: readonly string[]) => Promise<ReadonlyMap<string, BatchSize>>;
    work: (batches: readonly string[], onProgress: OnProgress) => Promise<void>;
  }) {
    this.#sizes = options.sizes;
    this.#work = options.work;
  }

  /** Resolves when the batch is worked on. @throws what the work on it alone throws, never what is another's */
  run(batch: string, onProgress?: OnProgress): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#arrived.push({ batch, onProgress, resolve, reject });
      void this.#sort();
    });
  }

  async #sort(): Promise<void> {
    if (this.#sorting) return;
    this.#sorting = true;
    // An activity's batches come in one go.
    await Promise.resolve();
    while (this.#arrived.length > 0) {
      const some = this.#arrived.splice(0);
      try {
        const sizes = await this.#sizes(some.map(({ batch }) => batch));
        const lots = new Set<string>();
        for (const one of some) {
          const size = sizes.get(one.batch);
          if (size === undefined || size.count > SMALL_BATCH) {
            void this.#alone(one, () => one.onProgress?.());
            continue;
          }
          lots.add(size.lot);
          const lot = this.#lots.get(size.lot) ?? { waiting: [], groups: 0 };
          this.#lots.set(size.lot, lot);
          lot.waiting.push({ ...one, count: size.count });
        }
        for (const lot of lots) this.#next(lot);
      } catch (error) {
        for (const one of some) one.reject(error);
      }
    }
    this.#sorting = false;
  }

  #next(id: string): void {
    const lot = this.#lots.get(id);
    if (lot === undefined) return;
    while (lot.groups < GROUPS && lot.waiting.length > 0) {
      let items = 0;
      const end = lot.waiting.findIndex(({ count }) => (items += count) > MOST_ITEMS);
      void this.#group(id, lot, lot.waiting.splice(0, end === -1 ? lot.waiting.length : end));
    }
    if (lot.groups === 0) this.#lots.delete(id);
  }

  async #group(id: string, lot: LotOfSmall, group: readonly Arrived[]): Promise<void> {
    // Those that wait for it don't hang as long as it goes on.
    const onProgress = (): void => {
      for (const one of [...group, ...lot.waiting]) one.onProgress?.();
    };
    lot.groups++;
    let held = true;
    const letGo = (): void => {
      if (!held) return;
      held = false;
      lot.groups--;
      this.#next(id);
    };
    const timer = setTimeout(letGo, HOLDS_MS);
    await this.#together(group, onProgress);
    clearTimeout(timer);
    letGo();
  }

  /** Doesn't throw. */
  async #together(group: readonly Arrived[], onProgress: OnProgress): Promise<void> {
    const [first] = group;
    if (group.length === 1) return this.#alone(first!, onProgress);
    try {
      await this.#work(
        group.map(({ batch }) => batch),
        onProgress,
      );
      for (const one of group) one.resolve();
    } catch {
      // It may be one batch's fault, whatever it is: an earlier key's intents, a damaged row. Each gets what is its own.
      const left = group.values();
      const side = async (): Promise<void> => {
        for (const one of left) await this.#alone(one, onProgress);
      };
      await Promise.all(Array.from({ length: SIDE_BY_SIDE }, side));
    }
  }

  /** Doesn't throw. */
  #alone({ batch, resolve, reject }: Arrived, onProgress: OnProgress): Promise<void> {
    return this.#work([batch], onProgress).then(resolve, reject);
  }
}
