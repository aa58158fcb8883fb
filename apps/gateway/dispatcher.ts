import { WorkflowIdConflictPolicy, WorkflowIdReusePolicy, type WorkflowClient } from "@temporalio/client";
import { batchesArrived, lotWorkflowIds, type LotBatch } from "../../contracts/lots.ts";
import { QUEUES } from "../../contracts/queues.ts";
import { pendingBatches, type PendingBatch } from "../../store/batches.ts";
import { isGathered } from "../../services/issuing/gather.ts";
import type { UnderWay } from "../../services/issuing/under-way.ts";
import type { Db } from "../../store/db.ts";
import { waitingHandoffs } from "../../store/handoffs.ts";
import { waitingRuns } from "../../store/injections.ts";

const IDS_A_SIGNAL = 1000;
const RESCAN_MS = 5_000;
/** Younger batches are on their way by whoever stored them. */
const OVERDUE_MS = 10_000;
/** A batch may wait in its workflow's queue: it isn't announced again at once. */
const REPEAT_MS = 300_000;
const FAILED_PAUSE_MS = 500;
/** Between two signals to one lot. */
const GATHER_MS = 50;

/**
 * Tells workflows of stored batches: gathered while a signal is under way, so that under load one signal brings many.
 * A batch is in the database before it comes here; what a crash kept from its workflow is found by looking, so a batch
 * is announced at least once, and its workflow runs it once.
 */
export class Dispatcher {
  readonly #db: Db;
  readonly #workflows: WorkflowClient;
  readonly #onFault: (error: unknown) => void;
  readonly #underWay: UnderWay | undefined;
  readonly #waiting = new Map<string, LotBatch[]>();
  readonly #sending = new Set<string>();
  readonly #announced = new Map<string, number>();
  readonly #rescan: NodeJS.Timeout;
  #closed = false;

  constructor(options: {
    db: Db;
    workflows: WorkflowClient;
    onFault: (error: unknown) => void;
    /** work of this process that batches may join */
    underWay?: UnderWay | undefined;
  }) {
    this.#db = options.db;
    this.#workflows = options.workflows;
    this.#onFault = options.onFault;
    this.#underWay = options.underWay;
    this.#rescan = setInterval(() => void this.#look(), RESCAN_MS);
    void this.#look();
  }

  announce(batch: PendingBatch): void {
    const { id, lot, kind } = batch;
    this.#announced.set(id, Date.now());
    if (kind === "install") return void this.#install(id);
    const joined = this.#underWay?.offer(batch);
    const told: LotBatch = { id, kind, ...(isGathered(batch) ? { small: true } : {}) };
    if (joined === undefined) return this.#tell(lot, told);
    void joined.then((done) => {
      if (!done) this.#tell(lot, told);
    });
  }

  #tell(lot: string, batch: LotBatch): void {
    const waiting = this.#waiting.get(lot);
    if (waiting === undefined) this.#waiting.set(lot, [batch]);
    else waiting.push(batch);
    void this.#send(lot);
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#rescan);
  }

  /** One signal to a lot at a time; what arrives meanwhile goes with the next. */
  async #send(lot: string): Promise<void> {
    if (this.#sending.has(lot)) return;
    this.#sending.add(lot);
    try {
      for (let batches = this.#waiting.get(lot); batches?.length && !this.#closed; batches = this.#waiting.get(lot)) {
        const some = batches.splice(0, IDS_A_SIGNAL);
        try {
          await this.#workflows.signalWithStart("productionLot", {
            workflowId: lotWorkflowIds.lot(lot),
            taskQueue: QUEUES.site,
            workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
            args: [{ lot }],
            signal: batchesArrived,
            signalArgs: [some],
          });
          // The first goes at once. When more come after it the lot is at work, and they go together.
          await new Promise((wake) => setTimeout(wake, GATHER_MS));
        } catch (error) {
          batches.unshift(...some);
          this.#onFault(error);
          await new Promise((wake) => setTimeout(wake, FAILED_PAUSE_MS));
        }
      }
    } finally {
      this.#sending.delete(lot);
      if (this.#waiting.get(lot)?.length === 0) this.#waiting.delete(lot);
    }
  }

  async #install(id: string): Promise<void> {
    try {
      await this.#workflows.start("installation", {
        workflowId: lotWorkflowIds.installation(id),
        taskQueue: QUEUES.site,
        workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
        workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING,
        args: [{ batch: id }],
      });
    } catch (error) {
      this.#announced.delete(id);
      this.#onFault(error);
    }
  }

  async #look(): Promise<void> {
    try {
      const pending = await pendingBatches(this.#db, OVERDUE_MS);
      const open = new Set(pending.map((batch) => batch.id));
      for (const [id, when] of this.#announced) {
        if (!open.has(id) && Date.now() - when > 2 * OVERDUE_MS) this.#announced.delete(id);
      }
      for (const batch of pending) {
        if (Date.now() - (this.#announced.get(batch.id) ?? 0) > REPEAT_MS) this.announce(batch);
      }
      for (const { id, direction } of await waitingHandoffs(this.#db, OVERDUE_MS)) {
        await startHandoff(this.#workflows, id, direction);
      }
      for (const run of await waitingRuns(this.#db, OVERDUE_MS)) await startInjectionRun(this.#workflows, run);
    } catch (error) {
      if (!this.#closed) this.#onFault(error);
    }
  }
}

/** Starts a handoff's workflow, or finds it running. */
export async function startHandoff(workflows: WorkflowClient, id: string, direction: "out" | "in"): Promise<void> {
  await workflows.start("handoff", {
    workflowId: lotWorkflowIds.handoff(id),
    taskQueue: QUEUES.site,
    workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
    workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING,
    args: [{ handoff: id, direction }],
  });
}

/** Starts an injection run's workflow, or finds it running. */
export async function startInjectionRun(workflows: WorkflowClient, run: string): Promise<void> {
  await workflows.start("injection", {
    workflowId: lotWorkflowIds.injection(run),
    taskQueue: QUEUES.site,
    workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
    workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING,
    args: [{ run }],
  });
}
