import { continueAsNew, proxyActivities, workflowInfo } from "@temporalio/workflow";
import type { InjectionActivities } from "../contracts/lots.ts";
import { QUEUES } from "../contracts/queues.ts";

const { injectNext } = proxyActivities<InjectionActivities>({
  taskQueue: QUEUES.site,
  startToCloseTimeout: "15 minutes",
  heartbeatTimeout: "60 seconds",
  retry: { initialInterval: "500 milliseconds", maximumInterval: "30 seconds", backoffCoefficient: 2 },
});

/** One run over a lot's certified devices: `injection/<run>`. */
export async function injection(input: { run: string }): Promise<void> {
  for (;;) {
    const { finished } = await injectNext({ run: input.run });
    if (finished) return;
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof injection>(input);
  }
}
