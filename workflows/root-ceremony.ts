import { ParentClosePolicy, WorkflowIdReusePolicy, proxyActivities, startChild } from "@temporalio/workflow";
import { WorkflowExecutionAlreadyStartedError } from "@temporalio/common";
import { workflowIds, type CeremonyActivities, type CeremonyRecordActivities } from "../contracts/parties.ts";
import { QUEUES } from "../contracts/queues.ts";
import { delegation } from "./delegation.ts";
import { patient } from "./options.ts";

const root = proxyActivities<CeremonyActivities>({ ...patient, taskQueue: QUEUES.ceremony });
const site = proxyActivities<CeremonyRecordActivities>({ ...patient, taskQueue: QUEUES.site });

export interface CeremonyResult {
  rootSha256: string;
  children: string[];
  hub: string | null;
}

/**
 * One document, one ceremony. The root key is asked on a queue of its own, which only the ceremony process serves; the
 * site's act key records what was done, and each delegation goes on by itself after the root's token is closed.
 */
export async function rootCeremony(document: { documentSha256: string }): Promise<CeremonyResult> {
  const { rootSha256, children } = await root.makeRoot(document);
  for (const child of children) await root.signChild({ ...document, child });
  await root.signRootCrl(document);
  const { hub } = await root.signHubVerification(document);
  await site.recordCeremony(document);
  for (const child of children) await startDelegation(child);
  await site.finishCeremony(document);
  return { rootSha256, children, hub };
}

async function startDelegation(child: string): Promise<void> {
  try {
    await startChild(delegation, {
      workflowId: workflowIds.delegation(child),
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      parentClosePolicy: ParentClosePolicy.ABANDON,
      taskQueue: QUEUES.site,
      args: [{ child }],
    });
  } catch (error) {
    // An earlier run of this ceremony started it.
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
  }
}
