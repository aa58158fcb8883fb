import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { exportLedger } from "../services/ledger/export.ts";
import { Acts, type ActDraft, type RecordedAct } from "../services/ledger/acts.ts";
import { actKey } from "../services/ledger/admission.ts";
import { LineWriter } from "./line-writer.ts";
import { createLedger, Sequencer } from "../services/ledger/sequencer.ts";
import { databaseSource, putBlob } from "../services/ledger/serve.ts";
import { nodeSha256 } from "../services/ledger/sha256.ts";
import { ensureSoftHsm, ensureToken, useSoftHsm } from "../apps/site/tokens.ts";
import { findPkcs11Module } from "../apps/site/stack/machine.ts";
import { loginUrl } from "../apps/site/stack/postgres.ts";
import { finalizeModule, nodeVerify, openToken } from "../hsm/index.ts";
import { toBase64 } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { ed25519Raw, formatVkey, KEY_TYPE, noteKey } from "../lib/ledger/note.ts";
import { LogReader } from "../lib/ledger/reader.ts";
import { verifyInclusion } from "../lib/ledger/tree.ts";
import { connect, inTransaction, migrate } from "../store/db.ts";
import { BATCH, BenchLot, ORIGIN, PARTY } from "./ledger-records.ts";
import { latencyOf, type Latency } from "./statistics.ts";
import { usageOf } from "./usage.ts";

/**
 * The site's side of the ledger benchmark, in a process of its own: SoftHSM reads its configuration once a process.
 *
 *   node bench/ledger-process.ts OPTIONS-JSON    appends, proves, exports; prints what that took
 */

export interface WriteOptions {
  /** for the token and the exported log */
  readonly dir: string;
  readonly login: { readonly url: string; readonly passwordFile: string };
  /** the server's process: its CPU is counted with it */
  readonly postgresPid: number;
  /** line records in batches; and as single writers after them */
  readonly entries: number;
  readonly singles: number;
  /** and as single writers, each in a transaction of its own */
  readonly apart: number;
}

/** CPU us a record. */
export interface RecordCost {
  /** making the drafts, on the site's main thread: the load generator's own */
  readonly client: number;
  /** the rest of the site's main thread: Acts, Sequencer, what talks to Postgres */
  readonly mainThread: number;
  /** the process's other threads: signatures, garbage collection, the compiler */
  readonly otherThreads: number;
  readonly postgres: number;
}

export interface WritePhase {
  readonly from: number;
  readonly to: number;
  readonly seconds: number;
  readonly recordsPerSecond: number;
  readonly cpu: RecordCost;
}

export interface Singles extends WritePhase {
  readonly writers: number;
  readonly latency: Latency;
}

export interface Written {
  /** line records in batches, cut at the powers of ten */
  readonly batches: readonly WritePhase[];
  readonly singles: Singles;
  /** the same, each writer with a transaction of its own */
  readonly apart: Singles;
  readonly entryBytes: number;
  readonly checkpoints: number;
  readonly size: number;
  /** ms; a reader of its own for each: checkpoint verified, tiles read, proof made and verified */
  readonly proof: Latency & { readonly most: number; readonly proofs: number };
  readonly exportSeconds: number;
  readonly maxRssBytes: number;
  /** the exported log */
  readonly folder: string;
  readonly vkey: string;
}

/** Batches under way at once: two stations of eight. */
const WRITERS = 16;
export const SINGLE_WRITERS = 2048;
const WAIT = { timeoutMs: 120_000 };
const PROOFS = 200;
/** As a site's pool. */
const CONNECTIONS = 20;

class Meter {
  readonly #postgres: readonly { name: string; pid: number }[];
  clientMicros = 0;

  constructor(postgresPid: number) {
    this.#postgres = [{ name: "postgres", pid: postgresPid }];
  }

  mark() {
    const own = process.cpuUsage();
    const main = process.threadCpuUsage();
    return {
      at: performance.now(),
      process: own.user + own.system,
      main: main.user + main.system,
      client: this.clientMicros,
      postgres: usageOf(this.#postgres).get("postgres")!.cpuMs * 1000,
    };
  }

  /** Runs what the load generator does, which is no part of the ledger. */
  client<T>(work: () => T): T {
    const before = process.threadCpuUsage();
    const result = work();
    const { user, system } = process.threadCpuUsage(before);
    this.clientMicros += user + system;
    return result;
  }

  phase(since: ReturnType<Meter["mark"]>, from: number, to: number): WritePhase {
    const now = this.mark();
    const seconds = (now.at - since.at) / 1000;
    const each = (micros: number): number => micros / (to - from);
    const client = now.client - since.client;
    const main = now.main - since.main;
    return {
      from,
      to,
      seconds,
      recordsPerSecond: (to - from) / seconds,
      cpu: {
        client: each(client),
        mainThread: each(main - client),
        otherThreads: each(now.process - since.process - main),
        postgres: each(now.postgres - since.postgres),
      },
    };
  }
}

export async function write(options: WriteOptions): Promise<Written> {
  const { dir, entries, singles } = options;
  const settings = {
    module: findPkcs11Module(),
    softhsm2Conf: join(dir, "softhsm", "softhsm2.conf"),
    sessions: 2,
  };
  const entry = { uri: `pkcs11:token=${PARTY}`, pinFile: join(dir, "secrets", "token.pin") };
  ensureSoftHsm(settings);
  useSoftHsm(settings);
  await ensureToken(settings, entry);
  const token = await openToken({
    module: settings.module,
    uri: entry.uri,
    pin: { file: entry.pinFile },
    sessions: settings.sessions,
  });
  const db = connect(loginUrl(options.login), { max: CONNECTIONS });
  const faults: unknown[] = [];
  await migrate(db);
  const log = await token.generateKey({ label: "log", algorithm: "ed25519" });
  const act = await token.generateKey({ label: "act", algorithm: "ec-p256" });
  const checkpoint = await createLedger({ db, origin: ORIGIN, signer: log });
  const acts = new Acts({ db, origin: ORIGIN, party: PARTY, wake: () => sequencer.wake() });
  let checkpoints = 0;
  const sequencer: Sequencer = new Sequencer({
    db,
    origin: ORIGIN,
    signer: log,
    actKeys: () => [actKey(act.spki, act.algorithm)],
    verify: nodeVerify,
    standing: async () => ({ root: true, grants: [] }),
    vouched: (leafHash) => acts.vouches(leafHash),
    sequenced: (leafHashes) => acts.forget(leafHashes),
    onCheckpoint: () => void checkpoints++,
    onError: (error) => void faults.push(error),
  });
  sequencer.start();
  try {
    const meter = new Meter(options.postgresPid);
    const opened = await BenchLot.open({ db, acts, log, act, checkpoint, slots: entries + singles + options.apart });
    await acts.waitIncluded(opened.retryKeys, WAIT);
    const { lot } = opened;

    // (a), (c): batches, each a transaction, each waited for until a signed checkpoint holds it.
    const batches: WritePhase[] = [];
    let entryBytes = 0;
    let begun = 0;
    let done = 0;
    for (const goal of goals(entries)) {
      const from = done;
      const since = meter.mark();
      const hand = async (): Promise<void> => {
        while (begun < goal) {
          const count = Math.min(BATCH, goal - begun);
          begun += count;
          const { manifest, drafts } = meter.client(() => lot.batch(count));
          const recorded = await inTransaction(db, async (tx) => {
            await putBlob(tx, manifest);
            return acts.recordLines(tx, drafts);
          });
          for (const one of recorded) entryBytes += one.entry.length;
          await acts.waitIncluded(
            recorded.map(({ retryKey }) => retryKey),
            WAIT,
          );
          done += count;
        }
      };
      await Promise.all(Array.from({ length: WRITERS }, hand));
      batches.push(meter.phase(since, from, done));
    }
    const inBatches = checkpoints;

    // (b): writers who each record one act and wait for it.
    const single = async (count: number, record: (draft: ActDraft<"built">) => Promise<RecordedAct>) => {
      const from = done;
      const waiting: ActDraft<"built">[] = [];
      for (let left = count; left > 0; left -= BATCH) {
        const { manifest, drafts } = lot.batch(Math.min(BATCH, left));
        await putBlob(db, manifest);
        waiting.push(...drafts);
      }
      const latencies: number[] = [];
      const writer = async (): Promise<void> => {
        for (let draft = waiting.pop(); draft !== undefined; draft = waiting.pop()) {
          const began = performance.now();
          await acts.waitIncluded([(await record(draft)).retryKey], WAIT);
          latencies.push(performance.now() - began);
        }
      };
      const since = meter.mark();
      await Promise.all(Array.from({ length: SINGLE_WRITERS }, writer));
      done += count;
      return { ...meter.phase(since, from, done), writers: SINGLE_WRITERS, latency: latencyOf(latencies) };
    };
    const lines = new LineWriter(db, acts);
    const together = await single(singles, (draft) => lines.record(draft));
    const apart = await single(options.apart, (draft) => inTransaction(db, (tx) => acts.recordLine(tx, draft)));

    const key = noteKey(ORIGIN, KEY_TYPE.ed25519, ed25519Raw(log.spki));
    const proofs = await proveSome(db, key);
    const folder = join(dir, "ledger", PARTY);
    const exporting = performance.now();
    const { size } = await exportLedger(db, folder);
    const exportSeconds = (performance.now() - exporting) / 1000;
    const pins = { root: toBase64(opened.root.der), policy: opened.policy };
    writeFileSync(join(dir, "pins.json"), JSON.stringify(pins));
    if (faults.length > 0) throw new CountersignError("internal", `the sequencer had a fault: ${String(faults[0])}`);
    return {
      batches,
      singles: together,
      apart,
      entryBytes: Math.round(entryBytes / entries),
      checkpoints: inBatches,
      size,
      proof: proofs,
      exportSeconds,
      maxRssBytes: process.resourceUsage().maxRSS * 1024,
      folder,
      vkey: formatVkey(key),
    };
  } finally {
    await sequencer.stop();
    acts.close();
    await db.end();
    await token.close();
    finalizeModule(settings.module);
  }
}

/** 1,000, 10,000, ... and the end. */
function goals(entries: number): number[] {
  const out: number[] = [];
  for (let power = 1000; power < entries; power *= 10) out.push(power);
  return [...out, entries];
}

async function proveSome(db: ReturnType<typeof connect>, log: ReturnType<typeof noteKey>): Promise<Written["proof"]> {
  const times: number[] = [];
  const fetch = databaseSource(db);
  for (let i = 0; i < PROOFS; i++) {
    const began = performance.now();
    const reader = await LogReader.open({ fetch, log, verify: nodeVerify, sha256: nodeSha256 });
    const index = Math.floor(Math.random() * reader.size);
    const leafHash = await reader.leafHash(index);
    const path = await reader.inclusionProof(index);
    const claim = { index, size: reader.size, leafHash, path, root: reader.checkpoint.root };
    if (!verifyInclusion(claim, nodeSha256)) throw new CountersignError("internal", `the proof of ${index} is wrong`);
    times.push(performance.now() - began);
  }
  return { ...latencyOf(times), most: Math.max(...times), proofs: PROOFS };
}

if (import.meta.main) {
  process.stdout.write(JSON.stringify(await write(JSON.parse(process.argv[2]!) as WriteOptions)));
}
