import { WorkflowIdConflictPolicy, WorkflowIdReusePolicy, type WorkflowClient } from "@temporalio/client";
import { lotWorkflowIds, receiptArrived } from "../../contracts/lots.ts";
import { acceptanceArrived, asked, delegationArrived, joinRefused, workflowIds } from "../../contracts/parties.ts";
import { QUEUES } from "../../contracts/queues.ts";
import type { CustodyContext } from "../../services/custody/context.ts";
import { applyMessage } from "../../services/custody/messages.ts";
import { readBody } from "../../services/parties/envelope.ts";
import { noteRefusal } from "../../services/parties/refused-grant.ts";
import type { MessageHandlers } from "../../services/parties/applier.ts";
import { refuseRotation } from "../../services/parties/rotate.ts";
import { sendAgain } from "../../services/recovery/resend.ts";
import type { OutboxOptions } from "../../services/parties/outbox.ts";
import type { Db } from "../../store/db.ts";
import { findDelegation } from "../../store/delegations.ts";

/** Which workflow of this site each kind of message is for. Business ids make a repetition find the first one. */
export function messageHandlers(party: string, workflows: WorkflowClient, custody: CustodyContext): MessageHandlers {
  const common = { taskQueue: QUEUES.site, workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE };

  async function handoff({ id }: { id: string }): Promise<void> {
    const { handoff, direction } = await applyMessage(custody, id);
    const options = { ...common, workflowId: lotWorkflowIds.handoff(handoff), args: [{ handoff, direction }] };
    if (direction === "in") {
      await workflows.start("handoff", { ...options, workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING });
    } else {
      await workflows.signalWithStart("handoff", { ...options, signal: receiptArrived, signalArgs: [{ message: id }] });
    }
  }

  return {
    async delegation({ id }) {
      await workflows.signalWithStart("acceptance", {
        ...common,
        workflowId: workflowIds.acceptance(party),
        signal: delegationArrived,
        signalArgs: [{ message: id }],
      });
    },
    async acceptance({ id, sender }) {
      await workflows.signalWithStart("delegation", {
        ...common,
        workflowId: workflowIds.delegation(sender),
        args: [{ child: sender }],
        signal: acceptanceArrived,
        signalArgs: [{ message: id }],
      });
    },
    async "grant-refused"({ id }) {
      await noteRefusal(custody.db, id);
    },
    async rotation({ sender }) {
      // Of an offline CA it waits for a sitting.
      if ((await findDelegation(custody.db, sender))?.signer !== "site") return;
      await workflows.signalWithStart("delegation", {
        ...common,
        workflowId: workflowIds.delegation(sender),
        args: [{ child: sender }],
        signal: asked,
      });
    },
    async recovered({ id }) {
      await sendAgain(custody.db, id);
    },
    "handoff-release": handoff,
    "handoff-receipt": handoff,
  };
}

/** A refused join ends the acceptance, a refused new key stays unused; others stay with their message, for the operator. */
export function onRefusedMessage(
  party: string,
  workflows: WorkflowClient,
  db: Db,
): NonNullable<OutboxOptions["onRefused"]> {
  return async (message, refusal) => {
    if (message.type === "rotation") {
      return refuseRotation(db, refusal, readBody("rotation", message.body).supersedes.leafHash);
    }
    if (message.type !== "join") return;
    const { invitation } = readBody("join", message.body);
    await workflows.signalWithStart("acceptance", {
      taskQueue: QUEUES.site,
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      workflowId: workflowIds.acceptance(party),
      signal: joinRefused,
      signalArgs: [{ parent: message.receiver, invitation, refusal }],
    });
  };
}
