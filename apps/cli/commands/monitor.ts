import { setTimeout as sleep } from "node:timers/promises";
import { InvalidArgumentError, type Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { visible } from "../../../lib/ledger/audit/report/escape.ts";
import { monitorRound, type MonitorRound } from "../../../lib/ledger/monitor/monitor.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { readPolicy } from "../evidence/folder.ts";
import { nodeSha256 } from "../evidence/hash.ts";
import { writeSplitView } from "../evidence/split-view.ts";
import { logsOf, readSeen } from "../monitor/sources.ts";
import { MonitorFile } from "../monitor/state.ts";
import { note, paint, print, printJson, table } from "../output.ts";

interface Options {
  policy: string;
  ledger?: string[];
  witness?: string[];
  state: string;
  seen?: string[];
  every: number;
  lag: number;
  patience?: number;
  evidence: string;
  once?: boolean;
  json?: boolean;
}

const HELP = `
Ledgers and witnesses are found in the running stack, in the policy's own URLs, or as --ledger and --witness say.
Exit codes: 0 nothing is wrong; 1 something is; 3 nothing is wrong with what was reached, but not all was, or to its end.

Example:
  $ countersign monitor --policy out/policy.json --once
  $ countersign monitor --policy policy.json --ledger factory-y=http://factory-y.example/ledger --seen captured/`;

export function registerMonitor(program: Command): void {
  program
    .command("monitor")
    .description("follow the parties' ledgers: alarms over forks, rollbacks, unlogged certificates, slots used twice")
    .requiredOption("--policy <file>", "policy.json: the root's digest, the logs' keys, their witnesses")
    .option("--ledger <party=url>", "where a party's ledger is served; may be repeated", collect)
    .option("--witness <name=url>", "a witness's submission prefix; may be repeated", collect)
    .option("--state <file>", "what is remembered between runs", "countersign-monitor.db")
    .option("--seen <path>", "certificates that were met (PEM file or folder), to be found in a ledger", collect)
    .option("--every <seconds>", "between rounds", seconds, 10)
    .option("--lag <seconds>", "for how long a witness may leave something uncosigned", seconds, 300)
    .option("--patience <seconds>", "for how long one ledger may keep a round (default: 60, with --once 3600)", seconds)
    .option("--evidence <dir>", "where to write what proves a fork", ".")
    .option("--once", "one round, then stop")
    .option("--json", "a JSON document a round")
    .addHelpText("after", HELP)
    .action((options: Options) => monitor(options));
}

async function monitor(options: Options): Promise<void> {
  const policy = await readPolicy(options.policy);
  const logs = await logsOf(policy, options);
  const stopping = new AbortController();
  const stop = (): void => stopping.abort();
  process.once("SIGINT", stop).once("SIGTERM", stop);
  const store = new MonitorFile(options.state);
  let last: MonitorRound | undefined;
  try {
    const { signal } = stopping;
    const { rootSha256 } = policy;
    const context = {
      store,
      logs,
      verify: webCryptoVerify,
      sha256: nodeSha256,
      rootSha256,
      lagMs: options.lag * 1000,
      patienceMs: (options.patience ?? (options.once === true ? 3600 : 60)) * 1000,
      signal,
    };
    do {
      last = await monitorRound(context, await readSeen(options.seen ?? []));
      await report(last, options);
      if (options.once !== true) await sleep(options.every * 1000, undefined, { signal });
    } while (options.once !== true);
  } catch (error) {
    if (!stopping.signal.aborted) throw error;
  } finally {
    store.close();
    process.off("SIGINT", stop).off("SIGTERM", stop);
  }
  if (last !== undefined) conclude(last);
}

/** What the last round found decides the exit code. */
function conclude({ alarms, ledgers }: MonitorRound): void {
  const [first] = alarms;
  if (first !== undefined) {
    const count = `${alarms.length} alarm${alarms.length === 1 ? "" : "s"}`;
    throw new CountersignError("audit-failed", `${count}, the first: ${first.party}: ${first.message}`);
  }
  const away = ledgers.filter(({ state }) => state === "unreachable" || state === "behind");
  if (away.length === 0) return;
  const what = away.some(({ state }) => state === "unreachable") ? "out of reach" : "not followed to the end";
  const names = away.map(({ party }) => party).join(", ");
  throw new CountersignError("component-unreachable", `${what}: ${names}: ${away[0]!.error ?? ""}`);
}

async function report(round: MonitorRound, options: Options): Promise<void> {
  for (const { party, evidence, fresh } of round.alarms) {
    if (evidence !== undefined && fresh) await writeSplitView(options.evidence, party, evidence);
  }
  const ok = round.alarms.length === 0;
  if (options.json) {
    const document = { ok, time: new Date().toISOString(), ...round };
    if (options.once) printJson(document);
    else print(JSON.stringify(document));
    return;
  }
  if (options.once) {
    print(
      table([
        ["ledger", "entries", "new", ""],
        ...round.ledgers.map(({ party, entries, fresh, state, error }) => [
          party,
          String(entries),
          String(fresh),
          state === "followed" ? "" : visible(`${state}${error === undefined ? "" : `: ${error}`}`),
        ]),
      ]),
    );
    for (const { witness, party, size, behindMs } of round.witnesses) {
      if (behindMs > 0)
        print(`${witness} has cosigned ${size} entries of ${party}, and is ${Math.round(behindMs / 1000)} s behind`);
    }
  } else {
    for (const { party, state, error } of round.ledgers)
      if (state === "unreachable" || state === "behind") note(visible(`${party}: ${error ?? state}`));
  }
  for (const { sha256, state, party } of round.seen) {
    if (state !== "logged") print(`certificate ${sha256}: ${state}${party === undefined ? "" : ` (${party})`}`);
  }
  for (const { code, party, message, since, fresh } of round.alarms) {
    if (options.once || fresh)
      // What a ledger or a certificate is called must not steer the terminal.
      print(`${paint("red", "alarm")} ${party}: ${visible(message)} [${code}] since ${since.toISOString()}`);
  }
  if (options.once && ok) print(`${paint("green", "followed")} nothing is wrong`);
}

const collect = (text: string, before: string[] = []): string[] => [...before, text];

function seconds(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value <= 86_400)) throw new InvalidArgumentError("expected seconds, at most a day");
  return value;
}
