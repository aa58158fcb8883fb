import { proxyActivities } from "@temporalio/workflow";
import type { HubChange, HubChangeActivities, HubChanged } from "../contracts/hubs.ts";
import type { Refusal } from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient, refusalOf } from "./options.ts";
import { whileAsked } from "./while-asked.ts";

const act = proxyActivities<HubChangeActivities>({ ...patient, taskQueue: QUEUES.site });

export type HubChangeResult = { state: "done"; answer: HubChanged } | ({ state: "refused" } & Refusal);

/** One change at a hub, tried until the hub has it or says no: a throttled or unreachable one only takes longer. */
export async function hubChange(input: { hub: string; change: HubChange }): Promise<HubChangeResult> {
  return whileAsked(async () => {
    try {
      return { state: "done", answer: await act.changeHub(input) };
    } catch (error) {
      return { state: "refused", ...refusalOf(error) };
    }
  });
}
