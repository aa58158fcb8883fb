import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { IssuingProcesses } from "../apps/site/issuing/issuing-processes.ts";
import { findPkcs11Module } from "../apps/site/stack/machine.ts";
import { ensureSoftHsm, ensureToken, openConfigured, tokenConfig, useSoftHsm } from "../apps/site/tokens.ts";
import { type CaKey, verifyTogether } from "../hsm/index.ts";
import { assertDeviceId } from "../lib/domain/ids.ts";
import { checkCsr, type Csr, parseCsr } from "../lib/pki/csr.ts";
import { type IssuerInfo, selfIssuer, validityFor } from "../lib/pki/issuer.ts";
import { lintTbs } from "../lib/pki/lint.ts";
import { pemDecode } from "../lib/pki/pem.ts";
import { profileNamed } from "../lib/pki/profiles.ts";
import { newSerial } from "../lib/pki/serial.ts";
import { buildTbs } from "../lib/pki/tbs.ts";
import { deviceIds, makeCsrs } from "./csrs.ts";
import { LoopHold } from "./loop-hold.ts";
import { latencyOf } from "./statistics.ts";
import { usageOf } from "./usage.ts";

/**
 * The raw issuing path alone (read the CSR, with or without proof of possession, build, lint, sign, verify; no database, no
 * ledger), on a new token: by sessions of one process, or by issuing processes. Prints one line of JSON.
 *
 *   UV_THREADPOOL_SIZE=132 node bench/hsm.ts --sessions 64 --seconds 5
 *   node bench/hsm.ts --processes 2 --sessions 2 --seconds 5 --possession
 */

export interface HsmBench {
  readonly processes: number;
  readonly sessions: number;
  readonly certificates: number;
  readonly perSecond: number;
  /** this process and its issuing processes */
  readonly cpuMicros: number;
  /** ms from asking for a batch until a certificate of it */
  readonly latency: { readonly p50: number; readonly p95: number; readonly p99: number };
  /** ms by which the event loop of the site's process was late */
  readonly loopDelay: { readonly p50: number; readonly p99: number; readonly max: number };
  /** the same without the time in which others had the machine: see loop-hold.ts */
  readonly loopHold: { readonly p50: number; readonly p99: number; readonly max: number };
}

interface Options {
  readonly module: string;
  readonly sessions: number;
  readonly processes: number;
  /** certificates under way at once */
  readonly concurrency: number;
  /** certificates asked for together, as one of a station's batches */
  readonly batch: number;
  readonly seconds: number;
  /** check each CSR's own signature */
  readonly possession: boolean;
}

const PROFILE = profileNamed("idevid");
/** As in services/issuing/items.ts. */
const SIDE_BY_SIDE = 64;

export async function benchHsm(options: Options): Promise<HsmBench> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-hsm-"));
  const { module, sessions, processes } = options;
  const settings = { module, sessions, softhsm2Conf: join(dir, "softhsm2.conf") };
  const entry = { uri: "pkcs11:token=bench", pinFile: join(dir, "pin") };
  ensureSoftHsm(settings);
  useSoftHsm(settings);
  await ensureToken(settings, entry);
  const token = await openConfigured(processes > 0 ? { ...settings, sessions: 1 } : settings, entry);
  const own = await token.generateCaKey({ label: "ca", algorithm: "ec-p256" });
  const remote =
    processes > 0
      ? await IssuingProcesses.start({ token: tokenConfig(settings, entry), processes, sessions })
      : undefined;
  try {
    const key = remote === undefined ? own : await remote.caKey("ca");
    const now = new Date();
    const validity = validityFor(profileNamed("root"), now, undefined);
    const issuer = selfIssuer({ name: { commonName: "Bench CA" }, spki: key.spki, ...validity });
    await drive(key, issuer, { ...options, seconds: 1 });
    return { processes, sessions, ...(await drive(key, issuer, options)) };
  } finally {
    await remote?.stop();
    await token.close();
    rmSync(dir, { recursive: true, force: true });
  }
}

async function drive(key: CaKey, issuer: IssuerInfo, { concurrency, batch, seconds, possession }: Options) {
  const loop = monitorEventLoopDelay({ resolution: 1 });
  const hold = new LoopHold();
  const ms: number[] = [];
  const me = [{ name: "site", pid: process.pid }];
  const cpuBefore = usageOf(me).get("site")!.cpuMs;
  const since = performance.now();
  const until = since + seconds * 1000;
  loop.enable();
  hold.start();
  let next = 0;
  const lane = async (): Promise<void> => {
    while (performance.now() < until) {
      const some = Array.from({ length: batch }, () => CSRS[next++ % CSRS.length]!);
      const began = performance.now();
      await certify(key, issuer, some, possession, () => ms.push(performance.now() - began));
    }
  };
  await Promise.all(Array.from({ length: Math.ceil(concurrency / batch) }, lane));
  loop.disable();
  const loopHold = rounded(hold.stop());
  const took = (performance.now() - since) / 1000;
  const cpuMs = usageOf(me).get("site")!.cpuMs - cpuBefore;
  return {
    certificates: ms.length,
    perSecond: Math.round(ms.length / took),
    cpuMicros: Math.round((cpuMs * 1000) / ms.length),
    latency: rounded(latencyOf(ms)),
    // The monitor counts its own interval (1 ms) as well.
    loopDelay: rounded({ p50: loop.percentile(50) / 1e6, p99: loop.percentile(99) / 1e6, max: loop.max / 1e6 }),
    loopHold,
  };
}

/** Each with a key of its own: what a check learns of one helps no other. */
const CSRS = makeCsrs(deviceIds("dev-", 1_000)).map((pem) => pemDecode(pem, "CERTIFICATE REQUEST")[0]!);

/** As services/issuing does with a batch: the signatures of the CSRs some at a time, then those of the certificates. */
async function certify(
  key: CaKey,
  issuer: IssuerInfo,
  ders: readonly Uint8Array[],
  possession: boolean,
  done: () => void,
): Promise<void> {
  const csrs: Csr[] = [];
  for (let at = 0; at < ders.length; at += SIDE_BY_SIDE) {
    const some = ders.slice(at, at + SIDE_BY_SIDE).map(async (der) => {
      const csr = parseCsr(der);
      if (possession) await checkCsr(csr, verifyTogether);
      csrs.push(csr);
    });
    await Promise.all(some);
  }
  const now = new Date();
  await Promise.all(
    csrs.map(async (csr) => {
      const tbs = buildTbs(PROFILE, {
        issuer,
        serial: newSerial(randomBytes),
        ...validityFor(PROFILE, now, issuer),
        subject: { commonName: assertDeviceId(csr.subjectCn ?? "") },
        spki: csr.spki,
      });
      await key.signCertificate(lintTbs(tbs, PROFILE, issuer));
      done();
    }),
  );
}

function rounded<K extends string>(values: Readonly<Record<K, number>>): Record<K, number> {
  const entries = Object.entries<number>(values).map(([name, value]) => [name, Math.round(value * 10) / 10]);
  return Object.fromEntries(entries) as Record<K, number>;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      module: { type: "string" },
      sessions: { type: "string", default: "4" },
      processes: { type: "string", default: "0" },
      concurrency: { type: "string", default: "1024" },
      batch: { type: "string", default: "256" },
      seconds: { type: "string", default: "5" },
      possession: { type: "boolean", default: false },
    },
  });
  const report = await benchHsm({
    module: values.module ?? findPkcs11Module(),
    sessions: Number(values.sessions),
    processes: Number(values.processes),
    concurrency: Number(values.concurrency),
    batch: Math.min(Number(values.batch), Number(values.concurrency)),
    seconds: Number(values.seconds),
    possession: values.possession,
  });
  process.stdout.write(`${JSON.stringify(report)}\n`);
}
