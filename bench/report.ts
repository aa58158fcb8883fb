import type { BenchReport } from "./run.ts";
import { BY_HAND, type Phase } from "./whole-way.ts";

/** The run as one table of strings, and what belongs under it. */
export function benchTable({ rawSign, rawPath, wholeWay, peers }: BenchReport): string[][] {
  const share = (perSecond: number): string => `${((100 * perSecond) / rawSign.perSecond).toFixed(1)} %`;
  const row = (
    name: string,
    run: Pick<Phase, "devices" | "devicesPerSecond" | "latency" | "cpuMicros" | "clientCpuMicros">,
    signs: boolean,
  ): string[] => [
    name,
    whole(run.devices),
    whole(run.devicesPerSecond),
    ...(run.latency ? [run.latency.p50, run.latency.p95, run.latency.p99].map(whole) : ["", "", ""]),
    whole(run.cpuMicros),
    whole(run.clientCpuMicros),
    signs ? share(run.devicesPerSecond) : "",
  ];
  return [
    ["", "devices", "devices/s", "p50 ms", "p95 ms", "p99 ms", "CPU us/device", "client's", "of raw C_Sign"],
    ...wholeWay.phases.map((phase) => row(`countersign ${phase.name}`, phase, phase.name.startsWith("certify"))),
    [
      "countersign, one CSR alone",
      "1",
      "",
      ...[wholeWay.single.p50, wholeWay.single.p95, wholeWay.single.p99].map(whole),
      "",
      "",
      "",
    ],
    ...peers.map((peer) => row(`${peer.name}, ${peer.concurrency} at once`, peer, true)),
    ...(
      [
        ["raw issuing path", rawPath.withPossession],
        ["raw issuing path, no possession check", rawPath.without],
      ] as const
    ).map(([name, { certificates, perSecond, latency, cpuMicros }]) =>
      row(
        name,
        { devices: certificates, devicesPerSecond: perSecond, latency, cpuMicros, clientCpuMicros: Number.NaN },
        true,
      ),
    ),
    ["raw C_Sign, one session", "", whole(rawSign.perSecond), "", "", "", whole(rawSign.cpuMicros), "", "100 %"],
  ];
}

export function benchNotes({
  cores,
  issuingProcesses,
  load,
  rawSign,
  rawPath,
  wholeWay,
  peers,
}: BenchReport): string[] {
  const certify = wholeWay.phases.find((phase) => phase.name === "certify")!;
  const byHand = wholeWay.phases.find((phase) => phase.name === BY_HAND)!;
  return [
    `cores ${cores}, issuing processes ${issuingProcesses}, load ${load[0].toFixed(1)} before and ${load[1].toFixed(1)} after`,
    ...peers.map(
      (peer) =>
        `against ${peer.name}: ${(certify.devicesPerSecond / peer.devicesPerSecond).toFixed(2)} times the devices/s, ` +
        `${(peer.cpuMicros / certify.cpuMicros).toFixed(2)} times the devices a CPU second, ` +
        `${(byHand.devicesPerSecond / peer.devicesPerSecond).toFixed(2)} times with one CSR a request; ` +
        `it came to ${peer.rounds.map((one) => `${whole(one.devicesPerSecond)}/s with ${one.concurrency} at once`).join(", ")}`,
    ),
    `CPU us of C_Sign as a share of the raw issuing path's: ${percent(rawSign.cpuMicros, rawPath.withPossession.cpuMicros)} ` +
      `with proof of possession, ${percent(rawSign.cpuMicros, rawPath.without.cpuMicros)} without`,
    ...[certify, byHand].map((phase) => `CPU us/device of ${phase.name}: ${partsOf(phase)}`),
    ...wholeWay.growth.map(
      (slice) =>
        `certified ${slice.from} to ${slice.to}: ${whole(slice.devicesPerSecond)} devices/s, ` +
        `${whole(slice.cpuMicros)} CPU us/device (${partsOf(slice)})`,
    ),
    `memory MB: ${[...Object.entries(wholeWay.memory), ...peers.map((peer) => [peer.name, peer.memoryBytes] as const)]
      .map(([name, bytes]) => `${name} ${whole(bytes / 2 ** 20)}`)
      .join(", ")}`,
  ];
}

/** The largest first. */
function partsOf({ parts }: Pick<Phase, "parts">): string {
  const some = Object.entries(parts).filter(([, micros]) => micros >= 1);
  return some
    .sort(([, a], [, b]) => b - a)
    .map(([name, micros]) => `${name} ${whole(micros)}`)
    .join(", ");
}

const percent = (part: number, all: number): string => `${((100 * part) / all).toFixed(1)} %`;
const whole = (value: number): string => (Number.isFinite(value) ? String(Math.round(value)) : "");
