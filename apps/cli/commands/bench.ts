import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { note, paint, print, printJson, table } from "../output.ts";

// The benchmark brings a whole stack and its peers: loaded by its own command alone.

const PEERS = ["step-ca"] as const;
type Peer = (typeof PEERS)[number];

export function registerBench(program: Command): void {
  program
    .command("bench")
    .description("measure a lot's whole way on a stack of its own, beside raw C_Sign and peers")
    .option("--devices <n>", "devices to certify", devicesOf, 10_000)
    .option("--against <peers>", `peers, built once from Go's module proxy: ${PEERS.join(",")}, or none`, peersOf, [
      ...PEERS,
    ])
    .option("--json", "print everything measured as JSON")
    .addHelpText("after", "\nExample:\n  $ countersign bench --devices 10000 --against step-ca")
    .action(async (options: { devices: number; against: Peer[]; json?: boolean }) => {
      const { runBench } = await import("../../../bench/run.ts");
      const report = await runBench({ ...options, onStep: (what) => note(paint("dim", what)) });
      if (options.json) return printJson(report);
      const { benchNotes, benchTable } = await import("../../../bench/report.ts");
      print(table(benchTable(report)));
      for (const line of benchNotes(report)) print(line);
    });
}

function devicesOf(text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= 1 && value <= 200_000) return value;
  throw new CountersignError("usage", `--devices ${text}: expected a whole number from 1 to 200000`);
}

function peersOf(text: string): Peer[] {
  if (text === "none") return [];
  return text.split(",").map((name) => {
    const peer = PEERS.find((known) => known === name);
    if (peer) return peer;
    throw new CountersignError("usage", `--against ${name}: the peers are ${PEERS.join(", ")}, or none`);
  });
}
