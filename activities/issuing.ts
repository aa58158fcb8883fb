import { Context } from "@temporalio/activity";
import type { LotActivities } from "../contracts/lots.ts";
import { recordBuilt } from "../services/issuing/built.ts";
import { issueBatch } from "../services/issuing/certify.ts";
import type { IssuingContext } from "../services/issuing/context.ts";
import { refuseBatch } from "../services/issuing/refuse.ts";
import { withFailures } from "./failures.ts";

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

/** Recording and certifying batches of a lot. */
export function issuingActivities(
  context: IssuingContext,
): Pick<LotActivities, "recordBuilt" | "issueBatch" | "refuseBatch"> {
  return withFailures({
    recordBuilt: ({ batch }: { batch: string }) => recordBuilt(context, batch, heartbeat()),
    issueBatch: ({ batch }: { batch: string }) => issueBatch(context, batch, heartbeat()),
    refuseBatch: ({ batch, refused }: Parameters<LotActivities["refuseBatch"]>[0]) =>
      refuseBatch(context.db, batch, refused),
  });
}
