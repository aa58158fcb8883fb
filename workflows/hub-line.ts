import { proxyActivities } from "@temporalio/workflow";
import type { HubLineActivities } from "../contracts/hubs.ts";
import type { Refusal } from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient, refusalOf } from "./options.ts";
import { whileAsked } from "./while-asked.ts";

const act = proxyActivities<HubLineActivities>({ ...patient, taskQueue: QUEUES.site });

export type HubLineResult = { state: "registered"; name: string; caSha256: string } | ({ state: "refused" } & Refusal);

/**
 * Brings the CA's present certificate to a hub: the first one as an operator asks for it, every later one when the CA is
 * renewed. What was there before stays, so that its devices go on connecting.
 */
export async function hubLine(line: { hub: string; line: string }): Promise<HubLineResult> {
  return whileAsked(() => follow(line));
}

async function follow(line: { hub: string; line: string }): Promise<HubLineResult> {
  try {
    const { name, caSha256 } = await act.registerCa(line);
    await act.followEnrollments(line);
    await act.recordCaRegistration({ hub: line.hub, name });
    return { state: "registered", name, caSha256 };
  } catch (error) {
    const refusal = refusalOf(error);
    await act.refuseCaRegistration({ ...line, refusal });
    return { state: "refused", ...refusal };
  }
}
