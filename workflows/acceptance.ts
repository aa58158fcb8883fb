import { condition, proxyActivities, setHandler } from "@temporalio/workflow";
import { delegationArrived, joinRefused, type AcceptanceActivities, type Refusal } from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient, refusalOf } from "./options.ts";

const act = proxyActivities<AcceptanceActivities>({ ...patient, taskQueue: QUEUES.site });

export type AcceptanceResult = { state: "accepted"; grant: string } | ({ state: "refused" } & Refusal);

/**
 * The child's side of a delegation: keys and request, `join`, then the parent's grant, checked and accepted. A grant
 * that isn't what was asked for is refused and the wait goes on, since the parent may send a right one.
 */
export async function acceptance({ parent }: { parent: string }): Promise<AcceptanceResult> {
  const arrived: string[] = [];
  const no: Refusal[] = [];
  setHandler(delegationArrived, ({ message }) => void arrived.push(message));
  setHandler(joinRefused, (refusal) => void no.push(refusal));

  try {
    await act.prepareRequest({ parent });
    await act.recordKeyset();
    await act.sendJoin({ parent });
  } catch (error) {
    no.push(refusalOf(error));
  }
  for (;;) {
    await condition(() => arrived.length > 0 || no.length > 0);
    const message = arrived.shift();
    if (message === undefined) {
      const refusal = no[0] as Refusal;
      await act.refuseJoin({ parent, refusal });
      return { state: "refused", ...refusal };
    }
    try {
      const { grant } = await act.acceptGrant({ message });
      await act.publishCrl();
      await act.recordAcceptance({ message });
      return { state: "accepted", grant };
    } catch (error) {
      await act.refuseGrant({ message, refusal: refusalOf(error) });
    }
  }
}
