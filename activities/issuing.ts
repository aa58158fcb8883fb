import { Context } from "@temporalio/activity";
import { LANES, type BatchGroup, type BatchRefusal, type LotActivities, type LotBatchKind } from "../contracts/lots.ts";
import { isCountersignError } from "../lib/domain/errors.ts";
import { recordBuilt } from "../services/issuing/built.ts";
import { issueBatches } from "../services/issuing/certify.ts";
import type { IssuingContext } from "../services/issuing/context.ts";
import { Gatherer, isGathered } from "../services/issuing/gather.ts";
import { refuseBatch } from "../services/issuing/refuse.ts";
import { UnderWay } from "../services/issuing/under-way.ts";
import { batchSizes, pendingInLot } from "../store/batches.ts";
import type { Db } from "../store/db.ts";
import { asFailure, withFailures } from "./failures.ts";

const HEARTBEAT_MS = 1000;
/** With the workflow's pauses between them: five minutes. */
const FAULTS_AT_MOST = 15;

/** One activity's heartbeat: called for every device, passed on once a second. */
function heartbeat(): () => void {
  const context = Context.current();
  // The server knows that it began: work that is over within the second sends none.
  let last = performance.now();
  return () => {
    const now = performance.now();
    if (now - last < HEARTBEAT_MS) return;
    last = now;
    context.heartbeat();
  };
}

/**
 * Batches side by side: one's refusal is its own, and so is a fault of ours that stays however often it is tried. What is
 * out of reach fails the activity once all have ended; its retry finds those done that came through, and the refused ones
 * have their answer before it.
 */
async function together(
  { db, underWay = new UnderWay(LANES) }: IssuingContext,
  { lot, queued, small, batches }: BatchGroup,
  kind: LotBatchKind,
  work: (batch: string) => Promise<void>,
): Promise<BatchRefusal[]> {
  const last = Context.current().info.attempt >= FAULTS_AT_MOST;
  const own = batches.map((batch) => () => work(batch));
  const ended =
    lot === undefined
      ? await Promise.allSettled(own.map((begin) => begin()))
      : await underWay.run({ lot, kind, queued, small }, own, (batch) => joined(db, batch, work));
  const refusals: BatchRefusal[] = [];
  const faults: unknown[] = [];
  for (const [i, end] of ended.entries()) {
    if (end.status === "fulfilled") continue;
    const failure = asFailure(end.reason);
    const batch = batches[i]!;
    if (failure.nonRetryable === true) {
      refusals.push({ batch, refused: { code: failure.type ?? "internal", message: failure.message } });
    } else if (last && staysSo(end.reason)) {
      // Its intents stay: reconciliation settles them, and the same CSRs may be posted again.
      const message = `this site fails at the batch again and again (${failure.message}): see its log, then post it anew`;
      refusals.push({ batch, refused: { code: "internal", message } });
    } else {
      faults.push(failure);
    }
  }
  if (faults.length === 0) return refusals;
  for (const { batch, refused } of refusals) await refuseBatch(db, batch, refused);
  throw faults[0];
}

/**
 * Work on a batch that joined others: whether it is done. A refusal is its answer; whatever else it fails with, its
 * workflow tries it again, and counts how often.
 */
async function joined(db: Db, batch: string, work: (batch: string) => Promise<void>): Promise<boolean> {
  try {
    await work(batch);
    return true;
  } catch (error) {
    const failure = asFailure(error);
    if (failure.nonRetryable !== true) return false;
    await refuseBatch(db, batch, { code: failure.type ?? "internal", message: failure.message });
    return true;
  }
}

/** A fault of this program or of its rows, which waiting doesn't mend; of a driver's error alone that can't be told. */
function staysSo(error: unknown): boolean {
  if (isCountersignError(error)) return error.code === "internal";
  const { code } = error as { code?: unknown };
  // data exception, integrity constraint violation
  if (typeof code === "string" && /^2[23][0-9A-Z]{3}$/.test(code)) return true;
  return error instanceof TypeError || error instanceof RangeError;
}

/** Recording and certifying batches of a lot. */
export function issuingActivities(
  context: IssuingContext,
): Pick<LotActivities, "recordBuilt" | "issueBatches" | "refuseBatch" | "waitingBatches"> {
  const gatherer = new Gatherer({
    sizes: (batches) => batchSizes(context.db, batches),
    work: (batches, onProgress) => issueBatches(context, batches, onProgress),
  });
  return withFailures({
    recordBuilt: (input: BatchGroup) => {
      const onProgress = heartbeat();
      return together(context, input, "built", (batch) => recordBuilt(context, batch, onProgress));
    },
    issueBatches: (input: BatchGroup) => {
      const onProgress = heartbeat();
      return together(context, input, "certify", (batch) => gatherer.run(batch, onProgress));
    },
    waitingBatches: async ({ lot, limit }: Parameters<LotActivities["waitingBatches"]>[0]) =>
      (await pendingInLot(context.db, lot, limit)).flatMap(({ id, kind, count }) =>
        kind === "install" ? [] : [{ id, kind, ...(isGathered({ kind, count }) ? { small: true as const } : {}) }],
      ),
    refuseBatch: ({ batch, refused }: Parameters<LotActivities["refuseBatch"]>[0]) =>
      refuseBatch(context.db, batch, refused),
  });
}
