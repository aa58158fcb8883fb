import { copyFile, mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { LotDevice } from "../scenario/lot.ts";
import { inParallel } from "./mirror.ts";

export interface Summary {
  readonly devices: number;
  readonly seconds: number;
  readonly devicesPerSecond: number;
  readonly parties: readonly {
    id: string;
    name: string;
    role: string;
    parent: string | null;
    origin: string;
    vkey: string;
    witnessVkey: string;
  }[];
  readonly hub: { connected: number; telemetry: number };
  readonly refused?: number;
}

/** A folder a certified device: CSR, chain, and where there is one, the image with its receipt. */
export async function writeDevices(dir: string, devices: Iterable<LotDevice>): Promise<void> {
  await inParallel(devices, async (device) => {
    if (device.chain === null) return;
    const folder = join(dir, "devices", device.deviceId);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "csr.pem"), device.csr);
    await writeFile(join(folder, "chain.pem"), device.chain);
    if (!device.receipt || !device.imagePath) return;
    await copyFile(device.imagePath, join(dir, device.receipt.image.path));
    await writeFile(join(folder, "receipt.json"), `${JSON.stringify(device.receipt, null, 2)}\n`);
  });
}

/** Last, by rename: a folder with a summary is a whole one. */
export async function writeSummary(dir: string, summary: Summary): Promise<void> {
  const partial = join(dir, "summary.json.part");
  await writeFile(partial, `${JSON.stringify(summary, null, 2)}\n`);
  await rename(partial, join(dir, "summary.json"));
}
