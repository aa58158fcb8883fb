import { continueAsNew, proxyActivities, workflowInfo } from "@temporalio/workflow";
import type { HubRevocationActivities } from "../contracts/hubs.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient } from "./options.ts";
import { whileAsked } from "./while-asked.ts";

const act = proxyActivities<HubRevocationActivities>({
  ...patient,
  retry: { ...patient.retry, maximumInterval: "1 minute" },
  taskQueue: QUEUES.site,
});

/**
 * Brings to one hub what was revoked, held or lifted. Apart from the `revocation` workflow: a hub that is away holds up
 * neither an act nor a CRL nor another hub.
 */
export async function hubRevocations(input: { hub: string }): Promise<void> {
  await whileAsked(async () => {
    while ((await act.tellHubRevocations(input)).left) {
      if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof hubRevocations>(input);
    }
  });
}
