import { existsSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import type { WorkflowHandle } from "@temporalio/client";
import { historyToJSON } from "@temporalio/common/lib/proto-utils.js";
import { PROJECT_ROOT } from "./index.ts";

/** Runs as they were recorded once, which today's workflows must replay. */
export const HISTORIES = join(PROJECT_ROOT, "test", "histories");

/**
 * Keeps a run's history as NAME.json, once; SAVE_HISTORIES=1 makes it anew, from this run. Without stacks, which hold the
 * paths of the machine and play no part in replaying.
 */
export async function saveHistory(handle: WorkflowHandle, name: string): Promise<void> {
  const path = join(HISTORIES, `${name}.json`);
  if (existsSync(path) && process.env["SAVE_HISTORIES"] === undefined) return;
  const history: unknown = JSON.parse(historyToJSON(await handle.fetchHistory()));
  const text = JSON.stringify(history, (key, value: unknown) => (key === "stackTrace" ? "" : value), 1);
  writeFileSync(path, `${text.replaceAll(`${process.pid}@${hostname()}`, "worker@test")}\n`);
}
