import { condition, proxyActivities, setHandler } from "@temporalio/workflow";
import { acceptanceArrived, type DelegationActivities, type Refusal } from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient, refusalOf } from "./options.ts";
import { whileAsked } from "./while-asked.ts";

const act = proxyActivities<DelegationActivities>({ ...patient, taskQueue: QUEUES.site });

export type DelegationResult = { state: "accepted" } | ({ state: "refused" } & Refusal);

/**
 * The parent's side: certificate, `delegation` act, envelope, then the child's acceptance. A certificate that a ceremony
 * signed is there already, and the first two steps find it. Waits as long as the child takes.
 */
export async function delegation({ child }: { child: string }): Promise<DelegationResult> {
  const arrived: string[] = [];
  setHandler(acceptanceArrived, ({ message }) => void arrived.push(message));

  const refusal = await whileAsked(() => delegate(child));
  if (refusal !== undefined) return { state: "refused", ...refusal };
  for (;;) {
    await condition(() => arrived.length > 0);
    try {
      await act.confirmAcceptance({ child, message: arrived.shift() as string });
      return { state: "accepted" };
    } catch (error) {
      // An acceptance that doesn't hold changes nothing here: the grant stands as issued, the child may send a right one.
      refusalOf(error);
    }
  }
}

async function delegate(child: string): Promise<Refusal | undefined> {
  try {
    await act.prepareDelegation({ child });
    await act.signDelegation({ child });
    await act.recordDelegation({ child });
    await act.sendDelegation({ child });
  } catch (error) {
    const refusal = refusalOf(error);
    await act.refuseDelegation({ child, refusal });
    return refusal;
  }
}
