import { execFile } from "node:child_process";
import { mkdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { startPostgres } from "../apps/site/stack/postgres.ts";
import { threadsForSessions } from "../hsm/index.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import type { Audited } from "./ledger-audit.ts";
import type { WriteOptions, Written } from "./ledger-process.ts";
import { benchTessera, buildTessera, type Tessera } from "./ledger-tessera.ts";

export interface LedgerBenchOptions {
  /** line records in batches; the single writers' come on top */
  readonly entries: number;
  readonly against: readonly "tessera"[];
  readonly onStep?: (what: string) => void;
}

export interface LedgerBench {
  readonly cores: number;
  /** one-minute load average when the run began and when it ended */
  readonly load: readonly [number, number];
  readonly written: Written;
  readonly audit: { readonly tree: Audited; readonly acts: Audited; readonly certificates: Audited };
  readonly tessera: readonly Tessera[];
}

const MOST_SINGLES = 40_000;
const MOST_APART = 4096;
const CHILD_MS = 60 * 60_000;
/** The sequencer's, under load. */
const CHECKPOINT_MS = 100;
/** Hands that keep Tessera as full as our batches do, and as many as our single writers. */
const TESSERA_WRITERS = [4096, 2048];

/**
 * The ledger alone, on a Postgres of its own and a SoftHSM token of its own, in a temporary folder that is gone
 * afterwards: line records in batches and one by one through to a signed checkpoint, proofs, the audit of it all, and
 * Tessera with entries of the same size.
 * @throws CountersignError `component-missing` when Tessera can't be built
 */
export async function benchLedger(options: LedgerBenchOptions): Promise<LedgerBench> {
  const { entries, against, onStep = () => undefined } = options;
  if (process.platform !== "linux") throw new CountersignError("usage", "the benchmark reads /proc: it needs Linux");
  const program = against.includes("tessera") ? await buildTessera(onStep) : undefined;
  const dir = await mkdtemp(join(tmpdir(), "countersign-bench-"));
  try {
    const before = loadavg()[0]!;
    onStep(`appending ${entries} records in batches, then single writers`);
    const written = await writtenOnOwnPostgres(dir, {
      entries,
      singles: Math.min(MOST_SINGLES, entries),
      apart: Math.min(MOST_APART, entries),
    });
    onStep("audit");
    const audit = {
      tree: await child<Audited>("ledger-audit.ts", dir, "tree"),
      acts: await child<Audited>("ledger-audit.ts", dir, "acts"),
      certificates: await child<Audited>("ledger-audit.ts", dir, "certificates"),
    };
    const tessera: Tessera[] = [];
    if (program !== undefined) {
      for (const writers of TESSERA_WRITERS) {
        onStep(`tessera, ${writers} writers`);
        const load = { entries: Math.min(entries, 100_000), bytes: written.entryBytes, writers };
        tessera.push(
          await benchTessera({ program, dir: join(dir, `tessera-${writers}`), ...load, intervalMs: CHECKPOINT_MS }),
        );
      }
    }
    return { cores: availableParallelism(), load: [before, loadavg()[0]!], written, audit, tessera };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function writtenOnOwnPostgres(
  dir: string,
  records: Pick<WriteOptions, "entries" | "singles" | "apart">,
): Promise<Written> {
  mkdirSync(join(dir, "secrets"), { mode: 0o700 });
  const postgres = await startPostgres({
    dataDir: join(dir, "postgres"),
    adminPasswordFile: join(dir, "secrets", "postgres.admin"),
    logFile: join(dir, "postgres.log"),
  });
  try {
    const login = await postgres.ensureDatabase({
      name: "bench",
      passwordFile: join(dir, "secrets", "postgres.bench"),
    });
    const options: WriteOptions = { dir, login, postgresPid: postgres.pid!, ...records };
    return await child<Written>("ledger-process.ts", JSON.stringify(options));
  } finally {
    await postgres.stop();
  }
}

/** Each part in a process of its own: a token's configuration, memory and CPU are a process's. */
async function child<T>(script: string, ...args: readonly string[]): Promise<T> {
  const { SOFTHSM2_CONF: _, ...rest } = process.env;
  const env = { ...rest, UV_THREADPOOL_SIZE: String(threadsForSessions(2)) };
  const options = { env, timeout: CHILD_MS, maxBuffer: 16 << 20 };
  const { stdout } = await promisify(execFile)(process.execPath, [join(import.meta.dirname, script), ...args], options);
  return JSON.parse(stdout) as T;
}
