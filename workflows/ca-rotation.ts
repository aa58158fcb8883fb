import { proxyActivities } from "@temporalio/workflow";
import type { Refusal, RotationActivities } from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient, refusalOf } from "./options.ts";
import { whileAsked } from "./while-asked.ts";

const act = proxyActivities<RotationActivities>({ ...patient, taskQueue: QUEUES.site });

export type CaRotationResult = { state: "sent" } | ({ state: "refused" } & Refusal);

/**
 * A site asks its parent for a certificate for another CA key. The parent's grant comes as every grant does, to the
 * `acceptance` workflow: until that has accepted it, nothing is signed with the new key.
 */
export async function caRotation(): Promise<CaRotationResult> {
  return whileAsked(async () => {
    try {
      await act.sendRotation();
      return { state: "sent" };
    } catch (error) {
      const refusal = refusalOf(error);
      await act.refuseRotation({ refusal });
      return { state: "refused", ...refusal };
    }
  });
}
