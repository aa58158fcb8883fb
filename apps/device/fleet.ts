import { existsSync } from "node:fs";
import { join } from "node:path";
import { CountersignError } from "../../lib/domain/errors.ts";
import { assertDeviceId } from "../../lib/domain/ids.ts";
import { openTray, TRAY_SIZE } from "./tray.ts";
import { type ConnectOutcome, failureOf, type MadeDevice, type MakeOutcome, runInTray } from "./tray-process.ts";

export type { ConnectOutcome, MadeDevice } from "./tray-process.ts";

export interface Fleet {
  /** Holds `tray-000/`, `tray-001/`, ... */
  dir: string;
  /** Trays at work at once, each its own process; 2 unless given. */
  processes?: number;
}

/**
 * Makes devices: for each a token of its own with a key made in it, and `<out>/<deviceId>/csr.pem`. Devices that are
 * there already are kept, so a run that was cut short can be run again. The order of `ids` decides the trays: give the
 * same list for the same folder.
 * @returns in the order of `ids`
 * @throws the first device's failure, `device-id-invalid`, `component-missing`
 */
export async function makeFleet(
  fleet: Fleet & { ids: readonly string[]; out: string; module?: string; onDevice?: (device: MadeDevice) => void },
): Promise<MadeDevice[]> {
  const made = new Map<string, MadeDevice>();
  const module = fleet.module === undefined ? {} : { module: fleet.module };
  await inTrays(fleet, fleet.ids.map(assertDeviceId), async (trayDir, devices) => {
    const tray = openTray(trayDir, { create: true, ...module });
    let failed: CountersignError | undefined;
    const job = { kind: "make", tray: trayDir, out: fleet.out, devices, makeKeys: true } as const;
    await runInTray(tray, job, (outcome: MakeOutcome) => {
      if ("error" in outcome) {
        failed ??= failureOf(outcome.error);
        return;
      }
      made.set(outcome.deviceId, outcome);
      fleet.onDevice?.(outcome);
    });
    if (failed !== undefined) throw failed;
  });
  return fleet.ids.map((id) => made.get(id)!);
}

export interface FleetConnection extends Fleet {
  /** Every device of the fleet, in the order of `makeFleet`; those without a chain stay at home. */
  devices: readonly { deviceId: string; chain?: string }[];
  /** HOST:PORT */
  hub: string;
  /** PEM of what the hub's server certificate is checked against. */
  ca: string;
  messages?: number;
  timeoutMs?: number;
  /** Devices of one tray that connect at once; 20 unless given. */
  concurrency?: number;
  onOutcome?: (outcome: ConnectOutcome) => void;
}

/** Connects each device once, with the key in its token, and has it send telemetry. Refusals are outcomes, not errors. */
export async function connectFleet(fleet: FleetConnection): Promise<ConnectOutcome[]> {
  const chains = new Map(fleet.devices.map(({ deviceId, chain }) => [deviceId, chain]));
  const outcomes = new Map<string, ConnectOutcome>();
  const ids = fleet.devices.map(({ deviceId }) => deviceId);
  await inTrays(fleet, ids, async (trayDir, trayIds) => {
    const devices = trayIds.flatMap((deviceId) => {
      const chain = chains.get(deviceId);
      return chain === undefined ? [] : [{ deviceId, chain }];
    });
    if (devices.length === 0) return;
    const job = {
      kind: "connect",
      tray: trayDir,
      hub: fleet.hub,
      ca: fleet.ca,
      messages: fleet.messages ?? 5,
      timeoutMs: fleet.timeoutMs ?? 30_000,
      concurrency: fleet.concurrency ?? 20,
      devices,
    } as const;
    await runInTray(openTray(trayDir), job, (outcome: ConnectOutcome) => {
      outcomes.set(outcome.deviceId, outcome);
      fleet.onOutcome?.(outcome);
    });
  });
  return ids.flatMap((id) => outcomes.get(id) ?? []);
}

/** The trays of a folder, in order: for whoever looks for one device's token. */
export function trayDirOf(dir: string, index: number): string {
  return join(dir, `tray-${String(Math.floor(index / TRAY_SIZE)).padStart(3, "0")}`);
}

/** The tray that holds a device. @throws CountersignError `hsm-token-missing` */
export function findTray(dir: string, deviceId: string): string {
  for (let index = 0; existsSync(trayDirOf(dir, index)); index += TRAY_SIZE) {
    const trayDir = trayDirOf(dir, index);
    if (openTray(trayDir).devices.includes(deviceId)) return trayDir;
  }
  throw new CountersignError("hsm-token-missing", `no tray under ${dir} has a token of ${deviceId}`);
}

async function inTrays(
  fleet: Fleet,
  ids: readonly string[],
  work: (trayDir: string, ids: string[]) => Promise<void>,
): Promise<void> {
  if (new Set(ids).size !== ids.length) throw new CountersignError("input-invalid", "a device ID stands twice");
  const waiting: { trayDir: string; ids: string[] }[] = [];
  for (let at = 0; at < ids.length; at += TRAY_SIZE) {
    waiting.push({ trayDir: trayDirOf(fleet.dir, at), ids: ids.slice(at, at + TRAY_SIZE) });
  }
  let failed = false;
  const lane = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined && !failed; next = waiting.shift()) {
      try {
        await work(next.trayDir, next.ids);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: fleet.processes ?? 2 }, lane));
  const broken = lanes.find((one) => one.status === "rejected");
  if (broken !== undefined) throw broken.reason;
}
