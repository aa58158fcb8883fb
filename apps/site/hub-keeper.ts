import { WorkflowIdReusePolicy, type WorkflowClient } from "@temporalio/client";
import { hubWorkflowIds } from "../../contracts/hubs.ts";
import { asked } from "../../contracts/parties.ts";
import { QUEUES } from "../../contracts/queues.ts";
import type { HubRegistry } from "../../services/hub/registry.ts";
import { staleHubLines } from "../../services/hub/stale.ts";
import type { Db } from "../../store/db.ts";
import { GRANT_CHANNEL } from "../../store/grants.ts";
import { hubsBehind, REVOCATION_CHANNEL } from "../../store/hub-blocks.ts";
import { keepListening } from "../../store/listen.ts";
import type { Logger } from "../http/logger.ts";

const LOOK_MS = 600_000;

interface Keeping {
  readonly db: Db;
  readonly hubs: ReadonlyMap<string, HubRegistry>;
  readonly workflows: WorkflowClient;
  readonly logger: Logger;
}

/**
 * Has every hub follow the site's CA, and those that follow no CRL what it takes back: looks at the start, when a grant
 * was accepted or a revocation recorded, and every ten minutes. The work is the workflows'; asking for it again does no
 * harm.
 * @returns the way to stop
 */
export async function keepHubs(keeping: Keeping): Promise<() => Promise<void>> {
  const fault = (error: unknown): void =>
    keeping.logger.error({ err: error }, "the hubs can't be brought up to date yet");
  const { db, hubs } = keeping;
  // This program's own hub follows the CRL, and is told by the `revocation` workflow.
  const followers = [...hubs].flatMap(([name, { kind }]) => (kind === "embedded" ? [] : [name]));
  const stops = await Promise.all([
    keepLooking(db, GRANT_CHANNEL, () => bringCas(keeping), fault),
    ...(followers.length === 0
      ? []
      : [keepLooking(db, REVOCATION_CHANNEL, () => bringRevocations(keeping, followers), fault)]),
  ]);
  return async () => void (await Promise.all(stops.map((stop) => stop())));
}

async function bringCas({ db, hubs, workflows, logger }: Keeping): Promise<void> {
  for (const line of await staleHubLines(db, new Set(hubs.keys()))) {
    await workflows.signalWithStart("hubLine", {
      workflowId: hubWorkflowIds.line(line.hub, line.line),
      taskQueue: QUEUES.site,
      args: [line],
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      signal: asked,
    });
    logger.info(line, "the CA's present certificate goes to the hub");
  }
}

async function bringRevocations({ db, workflows }: Keeping, followers: readonly string[]): Promise<void> {
  for (const hub of await hubsBehind(db, followers)) {
    await workflows.signalWithStart("hubRevocations", {
      workflowId: hubWorkflowIds.revocations(hub),
      taskQueue: QUEUES.site,
      args: [{ hub }],
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      signal: asked,
    });
  }
}

async function keepLooking(
  db: Db,
  channel: string,
  work: () => Promise<void>,
  onFault: (error: unknown) => void,
): Promise<() => Promise<void>> {
  let running = Promise.resolve();
  let waiting = false;
  // Notifications that come while one look waits for its turn are all seen by it.
  const look = (): void => {
    if (waiting) return;
    waiting = true;
    running = running
      .then(() => {
        waiting = false;
        return work();
      })
      .catch(onFault);
  };
  const subscription = await keepListening(db, channel, look);
  look();
  const timer = setInterval(look, LOOK_MS);
  return async () => {
    clearInterval(timer);
    subscription.close();
    await running;
  };
}
