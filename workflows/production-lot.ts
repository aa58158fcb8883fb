import {
  allHandlersFinished,
  ApplicationFailure,
  condition,
  continueAsNew,
  patched,
  proxyActivities,
  setHandler,
  workflowInfo,
} from "@temporalio/workflow";
import {
  batchesArrived,
  LANES,
  lotOpened,
  lotProgress,
  type BatchRefusal,
  type LotActivities,
  type LotBatch,
  type Outcome,
  type ProductionLotInput,
} from "../contracts/lots.ts";
import { QUEUES } from "../contracts/queues.ts";
import { refusalOf } from "./options.ts";
import { outcome } from "./outcome.ts";

const retry = { initialInterval: "500 milliseconds", maximumInterval: "30 seconds", backoffCoefficient: 2 } as const;

const { openLot, refuseBatch, waitingBatches } = proxyActivities<LotActivities>({
  taskQueue: QUEUES.site,
  startToCloseTimeout: "2 minutes",
  retry,
});
const { recordBuilt, issueBatches } = proxyActivities<LotActivities>({
  taskQueue: QUEUES.site,
  startToCloseTimeout: "15 minutes",
  // Longer than a server's restart: a batch that is under way isn't started twice for that. And no longer: what a
  // worker that was killed had in hand waits for it, and with six of them the lot.
  heartbeatTimeout: "20 seconds",
  retry,
});

/** Batches that one activity works on side by side. */
const GROUP = 8;
/** Small ones, which it works on together. */
const SMALL_GROUP = 64;

/**
 * Batches whose ids a run holds at most, of some hundred bytes each: the next run gets them as its input, and Temporal
 * fails for good at 2 MB. More wait in the database, where all of them are.
 */
const QUEUE_LIMIT = 2_000;

/**
 * One production lot, for as long as it is open: `lot/<id>`. Batches come by reference and run on parallel lanes; a run
 * that has become long hands what it hasn't begun to the next one. What is announced beyond what a run may hold is read
 * from the database once the others are done.
 */
export async function productionLot(input: ProductionLotInput): Promise<void> {
  // Runs that began before queues were bounded go on as they began.
  const bounded = patched("bounded-queue");
  const state = new LotState(input, bounded);
  let opening: Outcome | undefined = input.request === undefined ? { ok: true } : undefined;
  setHandler(batchesArrived, (batches) => state.add(batches));
  setHandler(lotProgress, () => state.progress());
  setHandler(lotOpened, async () => {
    await condition(() => opening !== undefined, "30 seconds");
    return opening ?? { ok: false, error: { code: "timeout", message: `lot ${input.lot} is still being opened` } };
  });

  if (input.request !== undefined) {
    opening = await outcome(() => openLot({ request: input.request! }));
    if (!opening.ok) {
      await condition(allHandlersFinished);
      // Failed, not completed: the id is free for another try.
      throw ApplicationFailure.nonRetryable(opening.error.message, opening.error.code);
    }
  }

  const lanes = Array.from({ length: input.lanes ?? LANES }, () => lane(input.lot, state, bounded));
  await Promise.all(lanes);
  await condition(allHandlersFinished);
  await continueAsNew<typeof productionLot>({
    lot: input.lot,
    ...(input.lanes === undefined ? {} : { lanes: input.lanes }),
    ...(input.batchesPerRun === undefined ? {} : { batchesPerRun: input.batchesPerRun }),
    ...(input.queueLimit === undefined ? {} : { queueLimit: input.queueLimit }),
    ...(state.behind ? { behind: true } : {}),
    queue: state.queue,
    done: state.done,
  });
}

/** Works until this run is asked to end. */
async function lane(lot: string, state: LotState, bounded: boolean): Promise<void> {
  for (;;) {
    await condition(() => state.queue.length > 0 || state.mayRefill() || state.runEnds());
    if (state.runEnds()) return;
    if (bounded && state.queue.length === 0) {
      // Or another lane, woken by the same batches, took them all.
      if (state.mayRefill()) await state.refill();
      continue;
    }
    // Taken before the await: no other lane sees them.
    const batches = state.take();
    const ids = batches.map((batch) => batch.id);
    const work = batches[0]?.kind === "built" ? recordBuilt : issueBatches;
    const queued = state.queue.length > 0;
    const group = { lot, queued, ...(batches[0]?.small === true ? { small: true as const } : {}), batches: ids };
    for (const refusal of await refusals(ids, () => work(group))) await refuseBatch(refusal);
    state.finish(batches);
  }
}

/** A group whose activity is refused as a whole, which none is by itself, is refused batch by batch. */
async function refusals(ids: readonly string[], work: () => Promise<BatchRefusal[]>): Promise<BatchRefusal[]> {
  try {
    return await work();
  } catch (error) {
    const refused = refusalOf(error);
    return ids.map((batch) => ({ batch, refused }));
  }
}

class LotState {
  queue: LotBatch[];
  done: number;
  /** queued or running: a batch that is announced twice runs once */
  readonly #known: Set<string>;
  readonly #lot: string;
  readonly #batchesPerRun: number;
  readonly #queueLimit: number;
  /** the database holds batches that this run was told of, or may have been, and didn't keep */
  behind: boolean;
  #refilling = false;
  #running = 0;
  #taken = 0;

  constructor(input: ProductionLotInput, bounded: boolean) {
    this.queue = [...(input.queue ?? [])];
    this.done = input.done ?? 0;
    this.#known = new Set(this.queue.map((batch) => batch.id));
    this.#lot = input.lot;
    this.#batchesPerRun = input.batchesPerRun ?? Infinity;
    this.#queueLimit = bounded ? (input.queueLimit ?? QUEUE_LIMIT) : Infinity;
    this.behind = input.behind ?? false;
  }

  add(batches: readonly LotBatch[]): void {
    for (const batch of batches) {
      if (this.#known.has(batch.id)) continue;
      if (this.queue.length >= this.#queueLimit) {
        this.behind = true;
        return;
      }
      this.#known.add(batch.id);
      this.queue.push(batch);
    }
  }

  mayRefill(): boolean {
    return this.behind && !this.#refilling;
  }

  /** Reads what waits in the database. What is running waits there as well, hence one page more than that. */
  async refill(): Promise<void> {
    this.#refilling = true;
    // Before the answer: what is announced and not kept meanwhile may not be in it.
    this.behind = false;
    const limit = this.#queueLimit + this.#running;
    try {
      const batches = await waitingBatches({ lot: this.#lot, limit });
      this.add(batches);
      if (batches.length === limit) this.behind = true;
    } finally {
      this.#refilling = false;
    }
  }

  /** The next ones of one kind, as they came, and of them those that are small or those that aren't, as the first is. */
  take(): LotBatch[] {
    const [first] = this.queue;
    const other = this.queue.findIndex((batch) => batch.kind !== first?.kind);
    const batches = this.queue
      .slice(0, other === -1 ? undefined : other)
      .filter((batch) => batch.small === first?.small)
      .slice(0, first?.small === true ? SMALL_GROUP : GROUP);
    const taken = new Set(batches);
    this.queue = this.queue.filter((batch) => !taken.has(batch));
    this.#running += batches.length;
    this.#taken += batches.length;
    return batches;
  }

  finish(batches: readonly LotBatch[]): void {
    this.#running -= batches.length;
    this.done += batches.length;
    for (const { id } of batches) this.#known.delete(id);
  }

  /** The history is long enough: what is under way ends, the rest is the next run's. */
  runEnds(): boolean {
    return workflowInfo().continueAsNewSuggested || this.#taken >= this.#batchesPerRun;
  }

  progress() {
    return { queued: this.queue.length, behind: this.behind, running: this.#running, done: this.done };
  }
}
