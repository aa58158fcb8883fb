import type { HubBench, HubPhase, ServerBench } from "./hub.ts";

/** What the hub is asked to reach of mosquitto's rates. */
const ASKED = { connects: 0.5, publishes: 0.2 } as const;

/** The run as one table of strings, and what belongs under it. */
export function hubTable({ servers }: HubBench): string[][] {
  const row = (name: string, phase: HubPhase): string[] => [
    name,
    ...[phase.done, phase.perSecond, phase.p50, phase.p95, phase.p99, phase.cpuMicros, phase.clientCpuMicros].map(
      whole,
    ),
  ];
  return [
    ["", "done", "per s", "p50 ms", "p95 ms", "p99 ms", "CPU us each", "client's"],
    ...servers.map((one) => row(`${one.name}, mTLS connects`, one.connects)),
    ...servers.map((one) => row(`${one.name}, QoS 1 publishes`, one.publishes)),
  ];
}

export function hubNotes({ cores, load, servers }: HubBench): string[] {
  const [ours, ...peers] = servers;
  return [
    `cores ${cores}, load ${load[0].toFixed(1)} before and ${load[1].toFixed(1)} after`,
    ...peers.flatMap((peer) =>
      (["connects", "publishes"] as const).map(
        (what) =>
          `${what} against ${peer.name}: ${(ours![what].perSecond / peer[what].perSecond).toFixed(2)} times the rate ` +
          `(asked: ${ASKED[what]}), ${(ours![what].cpuMicros / peer[what].cpuMicros).toFixed(1)} times the CPU each`,
      ),
    ),
    ...(["connects", "publishes"] as const).map(
      (what) =>
        `CPU us each of our ${what}: ${Object.entries(ours![what].parts)
          .map(([name, micros]) => `${name} ${whole(micros)}`)
          .join(", ")}`,
    ),
    ...servers.map(memory),
    ...servers.flatMap(({ name, failed, failure }) =>
      failed === 0 ? [] : [`${name}: ${failed} didn't get through, the last of them: ${failure}`],
    ),
  ];
}

function memory({ name, held }: ServerBench): string {
  const total = sum(held.with);
  const parts = Object.entries(held.with).map(
    ([part, bytes]) => `${part} ${megabytes(bytes)} (${megabytes(held.before[part] ?? 0)} before)`,
  );
  const each = (total - sum(held.before)) / held.devices / 1024;
  return (
    `${name}: ${held.devices} devices at once in ${megabytes(total)}${name === "countersign" ? " (asked: below 1000)" : ""}: ` +
    `${parts.join(", ")}; ${each.toFixed(0)} KB a device`
  );
}

const sum = (bytes: Readonly<Record<string, number>>): number =>
  Object.values(bytes).reduce((all, one) => all + one, 0);
const megabytes = (bytes: number): string => `${whole(bytes / 1e6)} MB`;
const whole = (value: number): string => String(Math.round(value));
