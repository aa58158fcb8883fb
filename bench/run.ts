import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { PARTIES } from "../apps/site/stack/example.ts";
import { Stack, type StackOptions } from "../apps/site/stack/stack.ts";
import { removeState } from "../apps/site/stack/state.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { threadsForSessions } from "../hsm/index.ts";
import type { RawSpeed } from "../hsm/raw-speed.ts";
import { deviceIds, makeCsrs } from "./csrs.ts";
import type { HsmBench } from "./hsm.ts";
import { benchCfssl, buildCfssl } from "./cfssl.ts";
import { CONCURRENCIES, type DeviceCsr, type PeerResult } from "./peer-load.ts";
import { benchStepCa, buildStepCa } from "./step-ca.ts";
import type { PreparedToken } from "./token-process.ts";
import { wholeWay, type WholeWay } from "./whole-way.ts";

export const PEERS = ["step-ca", "cfssl"] as const;
export type Peer = (typeof PEERS)[number];

export interface BenchOptions {
  readonly devices: number;
  readonly against: readonly Peer[];
  /** `hsm.processes` of the parties that certify; default none */
  readonly issuingProcesses?: number | undefined;
  readonly onStep?: (what: string) => void;
}

export interface BenchReport {
  readonly cores: number;
  readonly issuingProcesses: number;
  /** one-minute load average when the run began and when it ended */
  readonly load: readonly [number, number];
  /** C_SignInit and C_Sign alone, one session, on a SoftHSM token: before and after the rest */
  readonly rawSign: { readonly perSecond: number; readonly cpuMicros: number };
  /** the issuing path alone, on a token of the same kind: one process, without database or ledger */
  readonly rawPath: { readonly withPossession: HsmBench; readonly without: HsmBench };
  readonly wholeWay: WholeWay;
  readonly peers: readonly PeerResult[];
}

const RAW_SECONDS = 2;
/** Four batches under way, as of a station: while one's CSRs are checked, another's certificates are signed. */
const RAW_CONCURRENCY = "1024";
/** One to sign while another's digest is on its way back. */
const RAW_SESSIONS = 2;
const PATH_SECONDS = 3;
/** at each concurrency */
const PEER_DEVICES = 2000;
const CHILD_MS = 60_000;

/**
 * Everything in one run, one after the other, each with the machine to itself as far as we go: raw C_Sign, the whole way on
 * a stack of its own in a temporary folder, the peers, raw C_Sign again. Nothing is left running, and nothing on disk but
 * the peers' programs in the cache.
 * @throws CountersignError `component-missing` when a peer can't be built, and what the stack throws
 */
export async function runBench(options: BenchOptions): Promise<BenchReport> {
  const { devices, against, issuingProcesses = 0, onStep = () => undefined } = options;
  if (process.platform !== "linux") throw new CountersignError("usage", "the benchmark reads /proc: it needs Linux");
  const programs: Partial<Record<Peer, string>> = {};
  if (against.includes("step-ca")) programs["step-ca"] = await buildStepCa(onStep);
  if (against.includes("cfssl")) programs.cfssl = await buildCfssl(onStep);
  const dir = await mkdtemp(join(tmpdir(), "countersign-bench-"));
  try {
    const before = loadavg()[0]!;
    const token = await tokenProcess<PreparedToken>("prepare", join(dir, "token"));
    onStep("raw C_Sign");
    const speeds = [await rawSpeed(dir)];
    onStep("the issuing path alone");
    const rawPath = { withPossession: await rawPathSpeed("--possession"), without: await rawPathSpeed() };
    const parties = PARTIES.map((party) => ({ ...party, issuingProcesses }));
    const whole = await onOwnStack({ home: join(dir, "stack"), parties }, onStep, (stack, home) =>
      wholeWay(stack, home, { devices, onStep }),
    );
    const peers: PeerResult[] = [];
    for (const peer of PEERS) {
      const program = programs[peer];
      if (program === undefined) continue;
      const csrs = peerCsrs(Math.min(devices, PEER_DEVICES) * (CONCURRENCIES.length + 1));
      onStep(peer);
      const work = { program, dir: join(dir, peer), csrs };
      peers.push(await (peer === "cfssl" ? benchCfssl(work) : benchStepCa({ ...work, token })));
    }
    onStep("raw C_Sign again");
    speeds.push(await rawSpeed(dir));
    return {
      cores: availableParallelism(),
      issuingProcesses,
      load: [before, loadavg()[0]!],
      rawSign: {
        perSecond: sum(speeds, (s) => s.signatures) / sum(speeds, (s) => s.seconds),
        cpuMicros: (sum(speeds, (s) => s.cpuSeconds) * 1e6) / sum(speeds, (s) => s.signatures),
      },
      rawPath,
      wholeWay: whole,
      peers,
    };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function peerCsrs(count: number): DeviceCsr[] {
  const ids = deviceIds("dev-p", count);
  const pems = makeCsrs(ids);
  return ids.map((id, i) => ({ id, pem: pems[i]! }));
}

const sum = (speeds: readonly RawSpeed[], of: (speed: RawSpeed) => number): number =>
  speeds.reduce((total, speed) => total + of(speed), 0);

const rawSpeed = (dir: string): Promise<RawSpeed> =>
  tokenProcess<RawSpeed>("speed", join(dir, "token"), String(RAW_SECONDS));

async function rawPathSpeed(...more: readonly string[]): Promise<HsmBench> {
  const { SOFTHSM2_CONF: _, ...env } = process.env;
  const script = join(import.meta.dirname, "hsm.ts");
  const args = [
    "--sessions",
    String(RAW_SESSIONS),
    "--seconds",
    String(PATH_SECONDS),
    "--concurrency",
    RAW_CONCURRENCY,
    ...more,
  ];
  const threads = { UV_THREADPOOL_SIZE: String(threadsForSessions(RAW_SESSIONS)) };
  const options = { env: { ...env, ...threads }, timeout: CHILD_MS };
  return JSON.parse((await promisify(execFile)(process.execPath, [script, ...args], options)).stdout) as HsmBench;
}

/** SoftHSM reads its configuration once a process, so what works on the benchmark's token is a process of its own. */
async function tokenProcess<T>(...args: readonly string[]): Promise<T> {
  const { SOFTHSM2_CONF: _, ...env } = process.env;
  const script = join(import.meta.dirname, "token-process.ts");
  const { stdout } = await promisify(execFile)(process.execPath, [script, ...args], { env, timeout: CHILD_MS });
  return JSON.parse(stdout) as T;
}

async function onOwnStack<T>(
  own: Required<Pick<StackOptions, "home" | "parties">>,
  onStep: (what: string) => void,
  work: (stack: Stack, home: string) => Promise<T>,
): Promise<T> {
  // Beside a stack that may run already: every port is chosen, the hub's too.
  process.env["HUB_PORT"] = "0";
  let failed: string | undefined;
  const { home } = own;
  const stack = await Stack.start({
    ...own,
    onStep: (what) => onStep(`starting ${what}`),
    onFailure: (name, log) => (failed ??= `${name} has ended by itself; see ${log}`),
  });
  try {
    return await work(stack, home);
  } catch (error) {
    if (failed !== undefined) throw new CountersignError("component-unreachable", failed, { cause: error });
    throw error;
  } finally {
    await stack.stop();
    await removeState(home);
  }
}
