import { proxyActivities } from "@temporalio/workflow";
import type { HubRegistrationActivities, Refusal } from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient, refusalOf } from "./options.ts";
import { whileAsked } from "./while-asked.ts";

const act = proxyActivities<HubRegistrationActivities>({ ...patient, taskQueue: QUEUES.site });

export type HubRegistrationResult = { state: "registered"; caSha256: string } | ({ state: "refused" } & Refusal);

/** Proves the root to the hub with what the ceremony signed, and records it. Devices need no registration. */
export async function hubRegistration({ name }: { name: string }): Promise<HubRegistrationResult> {
  return whileAsked(() => register(name));
}

async function register(name: string): Promise<HubRegistrationResult> {
  try {
    const { caSha256 } = await act.proveCaToHub({ name });
    await act.recordHubRegistration({ name });
    return { state: "registered", caSha256 };
  } catch (error) {
    const refusal = refusalOf(error);
    await act.refuseHubRegistration({ name, refusal });
    return { state: "refused", ...refusal };
  }
}
