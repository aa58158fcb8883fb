import { condition, continueAsNew, proxyActivities, setHandler, workflowInfo } from "@temporalio/workflow";
import { asked, type RevocationActivities } from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient } from "./options.ts";

const act = proxyActivities<RevocationActivities>({ ...patient, taskQueue: QUEUES.site });

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 60_000;

/**
 * Works off what is ordered: the act first, then the CRL, then the hubs. A hub that is out of reach is told again, more
 * and more seldom, and holds up no later order.
 */
export async function revocation(): Promise<void> {
  let asks = 0;
  setHandler(asked, () => void asks++);
  let pause = FIRST_PAUSE_MS;
  for (;;) {
    asks = 0;
    while ((await act.recordRevocations()).left);
    await act.publishRevocations();
    const { left } = await act.tellHubs();
    if (asks > 0) continue;
    if (!left) return;
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof revocation>();
    await condition(() => asks > 0, pause);
    pause = asks > 0 ? FIRST_PAUSE_MS : Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}
