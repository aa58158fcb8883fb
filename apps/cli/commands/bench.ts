import { Argument, type Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { note, paint, print, printJson, table } from "../output.ts";

// The benchmark brings a whole stack and its peers: loaded by its own command alone.

const PEERS = { lot: ["step-ca"], ledger: ["tessera"] } as const;
type What = keyof typeof PEERS;
type Peer = (typeof PEERS)[What][number];

interface Options {
  readonly devices: number;
  readonly entries: number;
  readonly against?: string;
  readonly json?: boolean;
}

export function registerBench(program: Command): void {
  program
    .command("bench")
    .description("measure a lot's whole way on a stack of its own, or the ledger alone, beside raw C_Sign and peers")
    .addArgument(new Argument("[what]", "what to measure").choices(Object.keys(PEERS)).default("lot"))
    .option("--devices <n>", "lot: devices to certify", countOf("--devices", 200_000), 10_000)
    .option("--entries <n>", "ledger: records to append in batches", countOf("--entries", 1_000_000), 100_000)
    .option(
      "--against <peers>",
      "peers, built once from Go's module proxy: step-ca (lot), tessera (ledger), or none; default all",
    )
    .option("--json", "print everything measured as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign bench --devices 10000 --against step-ca\n  $ countersign bench ledger --entries 1000000",
    )
    .action((what: What, options: Options) => (what === "ledger" ? benchLedger(options) : benchLot(options)));
}

const onStep = (what: string): void => note(paint("dim", what));

async function benchLot({ devices, against, json }: Options): Promise<void> {
  const { runBench } = await import("../../../bench/run.ts");
  const report = await runBench({ devices, against: peersOf("lot", against), onStep });
  if (json) return printJson(report);
  const { benchNotes, benchTable } = await import("../../../bench/report.ts");
  print(table(benchTable(report)));
  for (const line of benchNotes(report)) print(line);
}

async function benchLedger({ entries, against, json }: Options): Promise<void> {
  const peers = peersOf("ledger", against);
  const { benchLedger: run } = await import("../../../bench/ledger.ts");
  const report = await run({ entries, against: peers, onStep });
  if (json) return printJson(report);
  const { ledgerNotes, ledgerTable } = await import("../../../bench/ledger-report.ts");
  print(table(ledgerTable(report)));
  for (const line of ledgerNotes(report)) print(line);
}

function countOf(option: string, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= 1 && value <= most) return value;
    throw new CountersignError("usage", `${option} ${text}: expected a whole number from 1 to ${most}`);
  };
}

function peersOf<T extends What>(what: T, text: string | undefined): (typeof PEERS)[T][number][] {
  const known: readonly Peer[] = PEERS[what];
  const names = text === undefined ? known : text === "none" ? [] : text.split(",");
  return names.map((name) => {
    const peer = known.find((one) => one === name);
    if (peer) return peer as (typeof PEERS)[T][number];
    throw new CountersignError("usage", `--against ${name}: the peers are ${known.join(", ")}, or none`);
  });
}
