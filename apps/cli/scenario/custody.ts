import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { connectFleet, makeFleet } from "../../device/fleet.ts";
import { loadSiteConfig } from "../../site/config.ts";
import { extractFile } from "../../site/firmware.ts";
import type { StackFile } from "../../site/stack/stack-file.ts";
import { startProgress } from "../progress.ts";
import { writeEvidence } from "../out/evidence.ts";
import { buildChain } from "./chain.ts";
import { namespaceOf } from "./csr-file.ts";
import { lotDevices, nextLot, produceLot, type LotDevice } from "./lot.ts";

export interface CustodyPlan {
  readonly devices: number;
  /** devices whose chain goes into an image; these connect */
  readonly images: number;
  /** ready CSRs (PEM) instead of devices of our own */
  readonly csrs?: readonly string[];
  readonly out?: string;
}

export interface CustodyResult {
  readonly certified: number;
  readonly refused: number;
  readonly connected: number;
  readonly telemetry: number;
  readonly seconds: number;
  readonly devicesPerSecond: number;
}

/** The whole custody chain once, through the sites' own front doors. */
export async function playCustody(stack: StackFile, home: string, plan: CustodyPlan): Promise<CustodyResult> {
  const started = performance.now();
  await buildChain(home, {
    idPrefixes: plan.csrs ? namespaceOf(plan.csrs) : ["dev-"],
    quota: Math.max(1_000_000, 4 * plan.devices),
  });
  const lot = await nextLot(home);
  const fleet = plan.csrs ? undefined : await makeDevices(home, lot, plan.devices);
  const produced = await produceLot(home, lot, plan.csrs ?? fleet!.csrs, plan.images);
  const devices: LotDevice[] = [];
  for await (const device of lotDevices(home, lot)) devices.push(device);
  const hub = fleet ? await connectAll(stack, fleet, devices) : { connected: 0, telemetry: 0 };

  const seconds = (performance.now() - started) / 1000;
  const result: CustodyResult = {
    certified: produced.certified,
    refused: produced.refused.length,
    ...hub,
    seconds: round(seconds),
    devicesPerSecond: round(produced.certified / produced.signingSeconds),
  };
  if (plan.out !== undefined) {
    const firmwareDir = loadSiteConfig(join(home, "technician-z", "site.json")).firmwareDir;
    await writeEvidence(plan.out, stack, devices, result, produced.refused, firmwareDir);
  }
  if (hub.failed)
    throw new CountersignError("hub-refused", `${hub.failed} devices couldn't connect, the first: ${hub.reason}`);
  return result;
}

const round = (value: number): number => Math.round(value * 10) / 10;

interface MadeFleet {
  readonly dir: string;
  readonly ids: readonly string[];
  readonly csrs: readonly string[];
}

async function makeDevices(home: string, lot: string, count: number): Promise<MadeFleet> {
  const dir = join(home, "devices", lot);
  const out = join(dir, "out");
  await mkdir(out, { recursive: true });
  const width = Math.max(4, String(count).length);
  const ids = Array.from({ length: count }, (_, i) => `dev-${lot.slice(4)}-${String(i + 1).padStart(width, "0")}`);
  const progress = startProgress("Devices make their keys on the chip, and CSRs", count);
  let made = 0;
  await makeFleet({ dir, ids, out, onDevice: () => progress.update(++made) });
  progress.finish(`${count} devices`);
  const csrs = await Promise.all(ids.map((id) => readFile(join(out, id, "csr.pem"), "utf8")));
  return { dir, ids, csrs };
}

interface Connected {
  readonly connected: number;
  readonly telemetry: number;
  readonly failed?: number;
  readonly reason?: string;
}

/** First connect: each device shows the chain read out of its own image, and proves that it holds the key. */
async function connectAll(stack: StackFile, fleet: MadeFleet, devices: readonly LotDevice[]): Promise<Connected> {
  const chains = new Map<string, string>();
  for (const device of devices) {
    if (device.receipt && device.imagePath)
      chains.set(device.deviceId, await chainInImage(device.imagePath, device.receipt.format));
  }
  if (chains.size === 0) return { connected: 0, telemetry: 0 };
  const progress = startProgress("Devices connect to the hub with their injected chains", chains.size);
  let done = 0;
  const outcomes = await connectFleet({
    dir: fleet.dir,
    devices: fleet.ids.map((deviceId) => ({
      deviceId,
      ...(chains.has(deviceId) ? { chain: chains.get(deviceId)! } : {}),
    })),
    hub: stack.hub.mqtt,
    ca: await readFile(stack.hub.ca, "utf8"),
    onOutcome: () => progress.update(++done),
  });
  const good = outcomes.flatMap((outcome) => ("error" in outcome ? [] : [outcome]));
  const telemetry = good.reduce((sum, outcome) => sum + outcome.acknowledged, 0);
  progress.finish(`${good.length} connected, ${telemetry} messages`);
  const bad = outcomes.flatMap((outcome) => ("error" in outcome ? [outcome] : []));
  return {
    connected: good.length,
    telemetry,
    ...(bad[0] ? { failed: bad.length, reason: `${bad[0].deviceId}: ${bad[0].error.message}` } : {}),
  };
}

async function chainInImage(path: string, format: string): Promise<string> {
  const { chain } = await extractFile({ format, layout: {}, image: path });
  return chain.map((der) => pemEncode("CERTIFICATE", der)).join("");
}
