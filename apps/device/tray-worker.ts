import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { errorCodeOf } from "../../lib/domain/errors.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { connectFromTray, enlist, makeCsr, writeWhole } from "./device.ts";
import { openTray, type Tray } from "./tray.ts";
import type { MadeDevice, MakeJob, StoredReading, TrayJob, TrayReport } from "./tray-process.ts";

/**
 * The child process of one tray: SoftHSM reads its configuration once in a process, so each tray has its own. Takes one
 * job over IPC, reports device by device, and ends with its parent.
 */

function report(message: TrayReport): void {
  process.send?.(message);
}

function failure(error: unknown): { code: string; message: string } {
  return { code: errorCodeOf(error), message: error instanceof Error ? error.message : String(error) };
}

async function make(tray: Tray, deviceId: string, job: MakeJob): Promise<MadeDevice> {
  const file = job.out === undefined ? undefined : join(job.out, deviceId, "csr.pem");
  if (file !== undefined && existsSync(file)) {
    const csr = readFileSync(file, "utf8");
    return { deviceId, csr, keyId: keyIdOf(csr), created: false };
  }
  const made = await makeCsr(tray, deviceId, { makeKey: job.makeKeys });
  if (file !== undefined) writeWhole(file, made.csr);
  return { deviceId, ...made };
}

function keyIdOf(csr: string): string {
  return createHash("sha256").update(parseCsr(csr).spki).digest("hex");
}

async function run(job: TrayJob): Promise<void> {
  const tray = openTray(job.tray);
  if (job.kind === "make") {
    if (job.makeKeys) enlist(tray, job.devices);
    // One after the other: the token store is one folder, and its work is the processor's.
    for (const deviceId of job.devices) {
      try {
        report(await make(tray, deviceId, job));
      } catch (error) {
        report({ deviceId, error: failure(error) });
      }
    }
    return;
  }
  const { hub, ca, messages, intervalMs = 0, timeoutMs } = job;
  const onStored = (stored: StoredReading): void => report({ stored });
  const waiting = [...job.devices];
  const lane = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const { deviceId, chain } = next;
      try {
        report(await connectFromTray(tray, { deviceId, chain, hub, ca, messages, intervalMs, timeoutMs, onStored }));
      } catch (error) {
        report({ deviceId, error: failure(error) });
      }
    }
  };
  await Promise.all(Array.from({ length: job.concurrency }, lane));
}

process.on("disconnect", () => process.exit(1));
process.once("message", (job: TrayJob) => {
  run(job).then(
    () => process.send?.({ done: true } satisfies TrayReport, () => process.exit(0)),
    (error: unknown) => process.send?.({ failed: failure(error) } satisfies TrayReport, () => process.exit(0)),
  );
});
