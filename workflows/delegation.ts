import { condition, proxyActivities, setHandler } from "@temporalio/workflow";
import { acceptanceArrived, asked, type DelegationActivities, type Refusal } from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient, refusalOf } from "./options.ts";
import { whileAsked } from "./while-asked.ts";

const act = proxyActivities<DelegationActivities>({ ...patient, taskQueue: QUEUES.site });

export type DelegationResult = { state: "accepted" } | ({ state: "refused" } & Refusal);

/**
 * The parent's side: certificate, `delegation` act, envelope, then the child's acceptance. A certificate that a ceremony
 * signed is there already, and the first two steps find it. Waits as long as the child takes; asked again meanwhile, it
 * goes over the same steps, which send again what the child has refused.
 */
export async function delegation({ child }: { child: string }): Promise<DelegationResult> {
  const arrived: string[] = [];
  setHandler(acceptanceArrived, ({ message }) => void arrived.push(message));

  for (let again = true; ;) {
    if (again) {
      const refusal = await whileAsked(() => delegate(child));
      if (refusal !== undefined) return { state: "refused", ...refusal };
      again = false;
      setHandler(asked, () => void (again = true));
    }
    await condition(() => again || arrived.length > 0);
    const message = arrived.shift();
    if (message === undefined) continue;
    try {
      await act.confirmAcceptance({ child, message });
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
