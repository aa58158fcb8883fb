import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { simulate, type SimulationResult } from "../../device/simulator.ts";
import { SoftwareFleet } from "../../device/software-fleet.ts";
import { HubClient } from "../hub-client.ts";
import { note, print, printJson, table } from "../output.ts";
import { startProgress } from "../progress.ts";

export interface FleetOptions {
  fleet: number;
  messages: number;
  interval: number;
  hub?: string;
  ca?: string;
  json?: boolean;
}

const STEP_MS = 30_000;
/** Devices that are removed from the hub at once. */
const REMOVED_AT_ONCE = 8;

const KEYS = "made in software, in this process's memory, for this run alone";

/**
 * Simulated devices at a hub of whose operator we have the certificate: a CA of their own is registered for the run, and
 * it and they are removed from the hub afterwards, also on Ctrl-C.
 */
export async function connectSimulated(options: FleetOptions): Promise<void> {
  const client = await HubClient.open();
  const stopping = new AbortController();
  const stop = (): void => stopping.abort();
  process.once("SIGINT", stop).once("SIGTERM", stop);
  const name = `fleet-${randomBytes(4).toString("hex")}`;
  const ids = Array.from({ length: options.fleet }, (_, i) => `${name}-${String(i + 1).padStart(4, "0")}`);
  try {
    const { mqttPort, refusals: before } = await client.status();
    const hub = options.hub ?? `localhost:${mqttPort}`;
    const ca = options.ca === undefined ? client.serverCa : await readFile(options.ca, "utf8");
    const fleet = new SoftwareFleet(name);
    if (options.json !== true) note(`${options.fleet} devices; their keys: ${KEYS}`);
    const { code } = await client.offerCa(name);
    try {
      await client.verifyCa(name, fleet.rootPem, fleet.verification(code!));
      const result = await run(options, hub, ids, fleet, ca, stopping.signal);
      const atHub = since(before, (await client.status()).refusals);
      report(result, { hub, keys: KEYS, refusedAtHub: atHub }, options.json === true);
    } finally {
      await remove(client, name, ids);
    }
    if (stopping.signal.aborted) throw new CountersignError("interrupted", "stopped before every device had said all");
  } finally {
    process.off("SIGINT", stop).off("SIGTERM", stop);
    client.close();
  }
}

async function run(
  { fleet: count, messages, interval }: FleetOptions,
  hub: string,
  ids: readonly string[],
  fleet: SoftwareFleet,
  ca: string,
  signal: AbortSignal,
): Promise<SimulationResult> {
  const devices = ids.map((deviceId) => ({ deviceId, context: fleet.device(deviceId, ca) }));
  const connecting = startProgress("connecting", count);
  let publishing: ReturnType<typeof startProgress> | undefined;
  const result = await simulate({
    devices,
    hub,
    messages,
    intervalMs: interval,
    timeoutMs: STEP_MS,
    signal,
    onTried(tried) {
      connecting.update(tried);
      if (tried === count) connecting.finish();
    },
    onPublished: (done) => (publishing ??= startProgress("publishing", count * messages)).update(done),
  });
  publishing?.finish();
  return result;
}

/** What the hub itself counted meanwhile, by its own reasons. */
function since(before: Record<string, number>, after: Record<string, number>): Record<string, number> {
  const more = Object.entries(after).map(([reason, n]) => [reason, n - (before[reason] ?? 0)] as const);
  return Object.fromEntries(more.filter(([, n]) => n > 0));
}

function report(
  result: SimulationResult,
  more: { hub: string; keys: string; refusedAtHub: Record<string, number> },
  json: boolean,
): void {
  if (json) return printJson({ ...more, ...result });
  const { connect, publish } = result.latency;
  const of = (spread: typeof connect): string[] => (spread === null ? ["", ""] : [`${spread.p50}`, `${spread.p95}`]);
  const reasons = (title: string, by: Readonly<Record<string, number>>): string[][] =>
    Object.entries(by).map(([reason, n]) => [`${title}: ${reason}`, `${n}`]);
  print(
    table([
      ["", "number", "p50 ms", "p95 ms"],
      ["devices", `${result.devices}`],
      ["connected", `${result.connected}`, ...of(connect)],
      ...reasons("refused", result.refused),
      ...reasons("the hub says", more.refusedAtHub),
      ["messages published", `${result.published}`, ...of(publish)],
      ...reasons("lost on the way", result.lost),
    ]),
  );
}

/** Devices before their CA, which would stay otherwise. */
async function remove(client: HubClient, name: string, ids: readonly string[]): Promise<void> {
  const left = ids.values();
  const removing = startProgress("removing the fleet from the hub", ids.length);
  let removed = 0;
  const lane = async (): Promise<void> => {
    for (const id of left) {
      await client.removeDevice(id).catch((error: unknown) => {
        if (!(error instanceof CountersignError && error.code === "not-found")) throw error;
      });
      removing.update(++removed);
    }
  };
  await Promise.all(Array.from({ length: REMOVED_AT_ONCE }, lane));
  await client.removeCa(name);
  removing.finish();
}
