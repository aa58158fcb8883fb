import { Argument, type Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { note, paint, print, printJson, table } from "../output.ts";

// The benchmark brings a whole stack and its peers: loaded by its own command alone.

const PEERS = { lot: ["step-ca", "cfssl"], ledger: ["tessera"], hub: ["mosquitto"] } as const;
type What = keyof typeof PEERS;
type Peer = (typeof PEERS)[What][number];

/** The hub's own limit, unless configured. */
const MOST_CONNECTED = 10_000;

interface Options {
  readonly devices?: number;
  readonly entries: number;
  readonly connects: number;
  readonly publishes: number;
  readonly against?: string;
  readonly issuingProcesses?: number;
  readonly json?: boolean;
}

export function registerBench(program: Command): void {
  program
    .command("bench")
    .description("measure a lot's whole way on a stack of its own, or the ledger or the hub alone, beside peers")
    .addArgument(new Argument("[what]", "what to measure").choices(Object.keys(PEERS)).default("lot"))
    .option(
      "--devices <n>",
      "lot: devices to certify, default 10000; hub: devices connected at once, default 5000",
      countOf("--devices", 200_000),
    )
    .option("--entries <n>", "ledger: records to append in batches", countOf("--entries", 1_000_000), 100_000)
    .option("--connects <n>", "hub: connects with mutual TLS", countOf("--connects", 100_000), 4_000)
    .option("--publishes <n>", "hub: QoS 1 publishes", countOf("--publishes", 2_000_000), 80_000)
    .option(
      "--against <peers>",
      "peers, built or unpacked once: step-ca, cfssl (lot), tessera (ledger), mosquitto (hub), or none; default all",
    )
    .option(
      "--issuing-processes <n>",
      "lot: sign in so many processes; default none",
      countOf("--issuing-processes", 8),
    )
    .option("--json", "print everything measured as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign bench --devices 10000 --against step-ca,cfssl\n  $ countersign bench ledger --entries 1000000\n" +
        "  $ countersign bench hub --connects 4000 --publishes 80000 --devices 5000",
    )
    .action((what: What, options: Options) => RUN[what](options));
}

const RUN = { lot: benchLot, ledger: benchLedger, hub: benchHub };
const onStep = (what: string): void => note(paint("dim", what));

async function benchLot({ devices = 10_000, against, issuingProcesses, json }: Options): Promise<void> {
  const { runBench } = await import("../../../bench/run.ts");
  const report = await runBench({ devices, against: peersOf("lot", against), issuingProcesses, onStep });
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

async function benchHub({ connects, publishes, devices = 5_000, against, json }: Options): Promise<void> {
  if (devices > MOST_CONNECTED)
    throw new CountersignError("usage", `--devices: the hub's are at most ${MOST_CONNECTED}`);
  const peers = peersOf("hub", against);
  const { benchHub: run } = await import("../../../bench/hub.ts");
  const report = await run({ connects, publishes, devices, against: peers, onStep });
  if (json) return printJson(report);
  const { hubNotes, hubTable } = await import("../../../bench/hub-report.ts");
  print(table(hubTable(report)));
  for (const line of hubNotes(report)) print(line);
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
