import { allHandlersFinished, ApplicationFailure, condition, proxyActivities, setHandler } from "@temporalio/workflow";
import {
  receiptArrived,
  receiveHandoff,
  type HandoffActivities,
  type HandoffInput,
  type Outcome,
} from "../contracts/lots.ts";
import { QUEUES } from "../contracts/queues.ts";
import { outcome } from "./outcome.ts";

const activities = proxyActivities<HandoffActivities>({
  taskQueue: QUEUES.site,
  startToCloseTimeout: "5 minutes",
  retry: { initialInterval: "500 milliseconds", maximumInterval: "30 seconds", backoffCoefficient: 2 },
});

/** One change of hands, on either side: `handoff/<id>`. Runs until both have signed, however long that takes. */
export async function handoff(input: HandoffInput): Promise<void> {
  await (input.direction === "out" ? giver(input.handoff) : taker(input.handoff));
}

async function giver(id: string): Promise<void> {
  const receipts: string[] = [];
  setHandler(receiptArrived, ({ message }) => void receipts.push(message));
  if ((await activities.recordRelease({ handoff: id })).closed) return;
  for (;;) {
    await condition(() => receipts.length > 0);
    const message = receipts.shift()!;
    // A receipt that doesn't fit is none: the release stays open for the right one.
    if ((await outcome(() => activities.closeRelease({ handoff: id, message }))).ok) return;
  }
}

async function taker(id: string): Promise<void> {
  let state = "offered" as "offered" | "open" | "received";
  let refused: Outcome | undefined;
  setHandler(receiveHandoff, async () => {
    // A template may be missing here, or a component be down: the check goes on, and the operator asks again.
    await condition(() => state !== "offered" || refused !== undefined, "20 seconds");
    if (refused !== undefined) return refused;
    if (state === "offered") return stillChecked(id);
    const decided = await outcome(() => activities.decideReceipt({ handoff: id }));
    if (!decided.ok) return decided;
    const recorded = await outcome(() => activities.recordReceipt({ handoff: id }));
    if (recorded.ok) state = "received";
    return recorded;
  });

  const accepted = await outcome(async () => {
    if ((await activities.acceptOffer({ handoff: id })).received) state = "received";
  });
  if (!accepted.ok) {
    refused = accepted;
    await activities.refuseOffer({ handoff: id, refused: accepted.error });
    await condition(allHandlersFinished);
    throw ApplicationFailure.nonRetryable(accepted.error.message, accepted.error.code);
  }
  if (state !== "received") state = "open";
  await condition(() => state === "received");
  await condition(allHandlersFinished);
}

function stillChecked(id: string): Outcome {
  const message = `the offer ${id} is still being checked here: see the site's log, and try again`;
  return { ok: false, error: { code: "timeout", message } };
}
