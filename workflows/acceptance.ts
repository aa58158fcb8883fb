import { condition, proxyActivities, setHandler } from "@temporalio/workflow";
import {
  delegationArrived,
  invited,
  joinRefused,
  type AcceptanceActivities,
  type Refusal,
} from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { patient, refusalOf } from "./options.ts";

const act = proxyActivities<AcceptanceActivities>({ ...patient, taskQueue: QUEUES.site });

export type AcceptanceResult = { state: "accepted"; grant: string } | ({ state: "refused" } & Refusal);

/**
 * The child's side of a delegation: keys and request, `join`, then the parent's grant, checked and accepted. A grant
 * that isn't what was asked for is refused and the wait goes on, since the parent may send a right one, or the operator
 * may take another invitation. All of it comes by signal: one that arrives while a run is ending isn't lost with it.
 */
export async function acceptance(): Promise<AcceptanceResult> {
  const invitations: { parent: string; invitation: string }[] = [];
  const arrived: string[] = [];
  const refused: { parent: string; invitation: string; refusal: Refusal }[] = [];
  setHandler(invited, (invitation) => void invitations.push(invitation));
  setHandler(delegationArrived, ({ message }) => void arrived.push(message));
  setHandler(joinRefused, (no) => void refused.push(no));

  const more = () => invitations.length + arrived.length + refused.length > 0;
  for (;;) {
    await condition(more);
    const invitation = invitations.shift();
    if (invitation !== undefined) {
      const refusal = await join(invitation.parent);
      if (refusal !== undefined) refused.push({ ...invitation, refusal });
      continue;
    }
    const message = arrived.shift();
    if (message !== undefined) {
      const grant = await accept(message);
      // What came meanwhile, a later revision perhaps, isn't sent again by itself.
      if (grant !== undefined && arrived.length === 0) return { state: "accepted", grant };
      continue;
    }
    const no = refused.shift()!;
    await act.refuseJoin(no);
    if (!more()) return { state: "refused", ...no.refusal };
  }
}

async function join(parent: string): Promise<Refusal | undefined> {
  try {
    await act.prepareRequest({ parent });
    await act.recordKeyset();
    await act.sendJoin({ parent });
  } catch (error) {
    return refusalOf(error);
  }
}

async function accept(message: string): Promise<string | undefined> {
  try {
    const { grant } = await act.acceptGrant({ message });
    await act.publishCrl();
    await act.recordAcceptance({ message });
    return grant;
  } catch (error) {
    await act.refuseGrant({ message, refusal: refusalOf(error) });
  }
}
