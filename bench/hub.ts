import { mkdirSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { HubClient } from "../apps/cli/hub-client.ts";
import { Child, waitUntilReady } from "../apps/site/stack/child.ts";
import { PROJECT_ROOT } from "../apps/site/stack/machine.ts";
import { freePort } from "../apps/site/stack/ports.ts";
import { startPostgres, type Postgres } from "../apps/site/stack/postgres.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { buildHubLoad, HubLoad, type LoadResult } from "./hub-load.ts";
import { findMosquitto, startMosquitto } from "./mosquitto.ts";
import { memoryOf, usageOf, type Part } from "./usage.ts";

export interface HubBenchOptions {
  /** measured connects, and publishes, at each server */
  readonly connects: number;
  readonly publishes: number;
  /** connected at once */
  readonly devices: number;
  readonly against: readonly "mosquitto"[];
  readonly onStep?: (what: string) => void;
}

/** One kind of work at one server, all rounds together. */
export interface HubPhase {
  readonly done: number;
  readonly perSecond: number;
  /** ms at the device: the rounds' medians, averaged */
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  /** microseconds each: all of the server's processes, by part, and the load generator's */
  readonly cpuMicros: number;
  readonly parts: Readonly<Record<string, number>>;
  readonly clientCpuMicros: number;
}

export interface ServerBench {
  readonly name: string;
  readonly connects: HubPhase;
  readonly publishes: HubPhase;
  /** devices that didn't get through, in all that was measured, and why the last of them */
  readonly failed: number;
  readonly failure: string | undefined;
  readonly held: {
    readonly devices: number;
    /** bytes by part, before they came and with all connected */
    readonly before: Readonly<Record<string, number>>;
    readonly with: Readonly<Record<string, number>>;
  };
}

export interface HubBench {
  readonly cores: number;
  /** one-minute load average when the run began and when it ended */
  readonly load: readonly [number, number];
  readonly servers: readonly ServerBench[];
}

interface Server {
  readonly name: string;
  readonly address: string;
  readonly parts: readonly Part[];
}

/** Rounds, one server after the other in each: what else runs on the machine hits both. */
const ROUNDS = 4;
/** Connects under way at once. */
const HANDS = 64;
/** Publishing: connections, and messages on their way on each. */
const CLIENTS = 50;
const WINDOW = 20;
const MESSAGE_BYTES = 200;
/** For one command, seconds. */
const MOST_SECONDS = 240;
const WARM_CONNECTS = 300;
const WARM_PUBLISHES = 5000;

/**
 * The hub as its own process on a Postgres of its own, with devices below an intermediate below the registered root, and
 * mosquitto beside it; the devices are a program in Go. Everything is on loopback and in a temporary folder that is gone
 * afterwards.
 * @throws CountersignError `component-missing` when the load generator or mosquitto can't be had
 */
export async function benchHub(options: HubBenchOptions): Promise<HubBench> {
  const { against, onStep = () => undefined } = options;
  if (process.platform !== "linux") throw new CountersignError("usage", "the benchmark reads /proc: it needs Linux");
  const program = await buildHubLoad(onStep);
  const mosquitto = against.includes("mosquitto") ? await findMosquitto(onStep) : undefined;
  const dir = await mkdtemp(join(tmpdir(), "countersign-bench-"));
  const opened: (() => unknown)[] = [() => rm(dir, { recursive: true, force: true })];
  try {
    const before = loadavg()[0]!;
    const pki = join(dir, "hub");
    mkdirSync(join(pki, "secrets"), { recursive: true, mode: 0o700 });
    const load = new HubLoad(program);
    opened.push(() => load.end());
    await load.makePki(pki);
    onStep("starting Postgres and the hub");
    const postgres = await startPostgres({
      dataDir: join(dir, "postgres"),
      adminPasswordFile: join(pki, "secrets", "postgres.admin"),
      logFile: join(dir, "postgres.log"),
    });
    opened.push(() => postgres.stop());
    const hub = await startHub(dir, pki, postgres);
    opened.push(() => hub.child.stop());
    await registerRoot(dir, pki, load);
    const parts = [
      { name: "hub", pid: hub.child.pid },
      { name: "postgres", pid: postgres.pid! },
    ];
    const servers: Server[] = [{ name: "countersign", address: hub.address, parts }];
    if (mosquitto !== undefined) {
      const peer = await startMosquitto(mosquitto, join(dir, "mosquitto"), pki);
      opened.push(() => peer.stop());
      servers.push({ name: "mosquitto", address: peer.address, parts: [{ name: "mosquitto", pid: peer.pid }] });
    }
    return {
      cores: availableParallelism(),
      servers: await measure(servers, load, { ...options, onStep }),
      load: [before, loadavg()[0]!],
    };
  } finally {
    for (const close of opened.reverse()) await close();
  }
}

async function measure(
  servers: readonly Server[],
  load: HubLoad,
  { connects, publishes, devices, onStep }: HubBenchOptions & { onStep: (what: string) => void },
): Promise<ServerBench[]> {
  const connect = (server: Server, count: number) =>
    metered(server, () =>
      load.run({ do: "connect", address: server.address, count, hands: HANDS, seconds: MOST_SECONDS }),
    );
  const publish = (server: Server, count: number) => {
    const shape = { clients: CLIENTS, window: WINDOW, bytes: MESSAGE_BYTES, seconds: MOST_SECONDS };
    return metered(server, () => load.run({ do: "publish", address: server.address, count, ...shape }));
  };
  onStep("warm-up");
  for (const server of servers) {
    await connect(server, WARM_CONNECTS);
    await publish(server, WARM_PUBLISHES);
  }
  const rounds = new Map(servers.map((one) => [one.name, { connects: [] as Round[], publishes: [] as Round[] }]));
  for (let round = 1; round <= ROUNDS; round++) {
    for (const server of servers) {
      onStep(`${server.name}: connects, then publishes, ${round} of ${ROUNDS}`);
      rounds.get(server.name)!.connects.push(await connect(server, Math.ceil(connects / ROUNDS)));
      rounds.get(server.name)!.publishes.push(await publish(server, Math.ceil(publishes / ROUNDS)));
    }
  }
  const measured: ServerBench[] = [];
  for (const server of servers) {
    onStep(`${server.name}: ${devices} devices connected at once`);
    const before = memoryOf(server.parts);
    const hold = { do: "hold", address: server.address, count: devices, hands: HANDS } as const;
    const held = await load.run({ ...hold, seconds: MOST_SECONDS });
    const all = memoryOf(server.parts);
    await load.release();
    const { name } = server;
    const results = [...rounds.get(name)!.connects, ...rounds.get(name)!.publishes].map(({ result }) => result);
    measured.push({
      name,
      failed: [...results, held].reduce((sum, { failed }) => sum + failed, 0),
      failure: [...results, held].findLast(({ failure }) => failure !== undefined)?.failure,
      connects: together(rounds.get(name)!.connects),
      publishes: together(rounds.get(name)!.publishes),
      held: { devices: held.done, before: Object.fromEntries(before), with: Object.fromEntries(all) },
    });
  }
  return measured;
}

interface Round {
  readonly result: LoadResult;
  /** CPU by part, ms */
  readonly cpu: ReadonlyMap<string, number>;
}

async function metered(server: Server, work: () => Promise<LoadResult>): Promise<Round> {
  const before = usageOf(server.parts);
  const result = await work();
  const after = usageOf(server.parts);
  return { result, cpu: new Map([...after].map(([name, { cpuMs }]) => [name, cpuMs - before.get(name)!.cpuMs])) };
}

function together(rounds: readonly Round[]): HubPhase {
  const sum = (of: (round: Round) => number): number => rounds.reduce((total, round) => total + of(round), 0);
  const done = sum(({ result }) => result.done);
  const micros = (ms: number): number => (ms * 1000) / done;
  const parts = Object.fromEntries(
    [...rounds[0]!.cpu.keys()].map((name) => [name, micros(sum(({ cpu }) => cpu.get(name)!))]),
  );
  return {
    done,
    perSecond: done / sum(({ result }) => result.seconds),
    p50: sum(({ result }) => result.p50) / rounds.length,
    p95: sum(({ result }) => result.p95) / rounds.length,
    p99: sum(({ result }) => result.p99) / rounds.length,
    cpuMicros: Object.values(parts).reduce((total, one) => total + one, 0),
    parts,
    clientCpuMicros: micros(sum(({ result }) => result.cpuMs)),
  };
}

/** As the stack configures it, with its log in a file. */
async function startHub(home: string, dir: string, postgres: Postgres): Promise<{ child: Child; address: string }> {
  const passwordFile = join(dir, "secrets", "db.password");
  const database = await postgres.ensureDatabase({ name: "hub", passwordFile });
  const [api, mqtt] = [await freePort(), await freePort()];
  const config = {
    schema: "countersign/hub/v1",
    api: { port: api },
    mqtt: { port: mqtt },
    tls: { cert: "server.pem", key: "server.key" },
    clientCa: "ca.pem",
    database: { url: database.url, passwordFile },
    operator: { url: `https://127.0.0.1:${api}`, ca: "ca.pem", cert: "operator.pem", key: "operator.key" },
  };
  const file = join(dir, "hub.json");
  writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
  const child = await Child.start({
    name: "hub",
    command: process.execPath,
    args: [join(PROJECT_ROOT, "apps/hub/main.ts"), "--config", file],
    logFile: join(dir, "hub.log"),
  });
  const client = await HubClient.open(home);
  const answers = () => client.status().then(() => true);
  try {
    await waitUntilReady(child, answers, 60_000);
  } catch (error) {
    await child.stop();
    throw error;
  } finally {
    client.close();
  }
  return { child, address: `127.0.0.1:${mqtt}` };
}

async function registerRoot(home: string, pki: string, load: HubLoad): Promise<void> {
  const client = await HubClient.open(home);
  try {
    const { code } = await client.offerCa("bench");
    await client.verifyCa("bench", await readFile(join(pki, "root.pem"), "utf8"), await load.verification(code!));
  } finally {
    client.close();
  }
}
