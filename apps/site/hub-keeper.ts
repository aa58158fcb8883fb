import { WorkflowIdReusePolicy, type WorkflowClient } from "@temporalio/client";
import { hubWorkflowIds } from "../../contracts/hubs.ts";
import { asked } from "../../contracts/parties.ts";
import { QUEUES } from "../../contracts/queues.ts";
import { staleHubLines } from "../../services/hub/stale.ts";
import type { Db } from "../../store/db.ts";
import { GRANT_CHANNEL } from "../../store/grants.ts";
import { keepListening } from "../../store/listen.ts";
import type { Logger } from "../http/logger.ts";

const LOOK_MS = 600_000;

/**
 * Has every hub follow the site's CA: looks at the start, when a grant was accepted, and every ten minutes. Registering
 * is the workflow's; asking for it again does no harm.
 * @returns the way to stop
 */
export async function keepHubs(site: {
  db: Db;
  hubs: ReadonlySet<string>;
  workflows: WorkflowClient;
  logger: Logger;
}): Promise<() => Promise<void>> {
  const { db, hubs, workflows, logger } = site;
  let running = Promise.resolve();
  const look = (): void => {
    running = running
      .then(async () => {
        for (const line of await staleHubLines(db, hubs)) {
          await workflows.signalWithStart("hubLine", {
            workflowId: hubWorkflowIds.line(line.hub, line.line),
            taskQueue: QUEUES.site,
            args: [line],
            workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
            signal: asked,
          });
          logger.info(line, "the CA's present certificate goes to the hub");
        }
      })
      .catch((error: unknown) => logger.error({ err: error }, "the hubs can't be brought up to date yet"));
  };
  const subscription = await keepListening(db, GRANT_CHANNEL, look);
  look();
  const timer = setInterval(look, LOOK_MS);
  return async () => {
    clearInterval(timer);
    subscription.close();
    await running;
  };
}
