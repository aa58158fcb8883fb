import { proxyActivities } from "@temporalio/workflow";
import type { InstallationActivities } from "../contracts/lots.ts";
import { QUEUES } from "../contracts/queues.ts";
import { outcome } from "./outcome.ts";

const { recordInstallations, refuseBatch } = proxyActivities<InstallationActivities>({
  taskQueue: QUEUES.site,
  startToCloseTimeout: "5 minutes",
  retry: { initialInterval: "500 milliseconds", maximumInterval: "30 seconds", backoffCoefficient: 2 },
});

/** One technician's batch: `installation/<batch>`. */
export async function installation(input: { batch: string }): Promise<void> {
  const { batch } = input;
  const result = await outcome(() => recordInstallations({ batch }));
  if (!result.ok) await refuseBatch({ batch, refused: result.error });
}
