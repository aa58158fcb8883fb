import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { CACHE_DIR, which } from "../apps/site/stack/machine.ts";
import { CountersignError } from "../lib/domain/errors.ts";

/** Tessera's POSIX driver with entries of our size: a log in files, without acts, database or admission. */

export interface Tessera {
  readonly writers: number;
  readonly entries: number;
  readonly seconds: number;
  readonly entriesPerSecond: number;
  readonly cpuMicros: number;
}

const SOURCE = join(import.meta.dirname, "tessera");
const BUILD_MS = 10 * 60_000;
const RUN_MS = 11 * 60_000;

/** The program, built once into the cache, from Go's module proxy. @throws CountersignError `component-missing` */
export async function buildTessera(onStep: (what: string) => void): Promise<string> {
  const digest = createHash("sha256");
  for (const file of ["main.go", "go.mod", "go.sum"]) digest.update(readFileSync(join(SOURCE, file)));
  const folder = join(CACHE_DIR, "peers", `tessera-${digest.digest("hex").slice(0, 16)}`);
  const program = join(folder, "tessera");
  if (existsSync(program)) return program;
  const go = which("go");
  if (go === undefined) {
    throw new CountersignError(
      "component-missing",
      "tessera is built from Go's module proxy, and there is no go on PATH: install Go 1.26 or later, or say --against none",
    );
  }
  onStep("building tessera (once, a minute)");
  mkdirSync(folder, { recursive: true });
  try {
    await promisify(execFile)(go, ["build", "-mod=readonly", "-buildvcs=false", "-o", program, "."], {
      cwd: SOURCE,
      timeout: BUILD_MS,
      maxBuffer: 16 << 20,
    });
  } catch (cause) {
    const said = String((cause as { stderr?: string }).stderr ?? cause)
      .trim()
      .split("\n")
      .slice(-3)
      .join("; ");
    throw new CountersignError("component-missing", `tessera can't be built: ${said}`, { cause });
  }
  return program;
}

export async function benchTessera(options: {
  program: string;
  dir: string;
  entries: number;
  bytes: number;
  writers: number;
  intervalMs: number;
}): Promise<Tessera> {
  const { program, dir, entries, bytes, writers, intervalMs } = options;
  mkdirSync(dir, { recursive: true });
  const args = [dir, ...[entries, bytes, writers, intervalMs].map(String)];
  const { stdout } = await promisify(execFile)(program, args, { timeout: RUN_MS });
  return { writers, ...(JSON.parse(stdout) as Omit<Tessera, "writers">) };
}
