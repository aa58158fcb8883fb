import { Context } from "@temporalio/activity";
import type { BatchRefusal, LotActivities } from "../contracts/lots.ts";
import { recordBuilt } from "../services/issuing/built.ts";
import { issueBatch } from "../services/issuing/certify.ts";
import type { IssuingContext } from "../services/issuing/context.ts";
import { refuseBatch } from "../services/issuing/refuse.ts";
import { asFailure, withFailures } from "./failures.ts";

const HEARTBEAT_MS = 1000;

/** One activity's heartbeat: called for every device, passed on once a second. */
function heartbeat(): () => void {
  const context = Context.current();
  let last = -Infinity;
  return () => {
    const now = performance.now();
    if (now - last < HEARTBEAT_MS) return;
    last = now;
    context.heartbeat();
  };
}

/**
 * Batches side by side: one's refusal is its own. A fault fails the activity once all have ended, and its retry finds
 * those done that came through.
 */
async function together(
  { batches }: { batches: string[] },
  work: (batch: string) => Promise<void>,
): Promise<BatchRefusal[]> {
  const ended = await Promise.allSettled(batches.map(work));
  const refusals: BatchRefusal[] = [];
  for (const [i, end] of ended.entries()) {
    if (end.status === "fulfilled") continue;
    const failure = asFailure(end.reason);
    if (failure.nonRetryable !== true) throw failure;
    refusals.push({ batch: batches[i]!, refused: { code: failure.type ?? "internal", message: failure.message } });
  }
  return refusals;
}

/** Recording and certifying batches of a lot. */
export function issuingActivities(
  context: IssuingContext,
): Pick<LotActivities, "recordBuilt" | "issueBatches" | "refuseBatch"> {
  return withFailures({
    recordBuilt: (input: { batches: string[] }) => {
      const onProgress = heartbeat();
      return together(input, (batch) => recordBuilt(context, batch, onProgress));
    },
    issueBatches: (input: { batches: string[] }) => {
      const onProgress = heartbeat();
      return together(input, (batch) => issueBatch(context, batch, onProgress));
    },
    refuseBatch: ({ batch, refused }: Parameters<LotActivities["refuseBatch"]>[0]) =>
      refuseBatch(context.db, batch, refused),
  });
}
