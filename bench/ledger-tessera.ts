import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { CACHE_DIR } from "../apps/site/stack/machine.ts";
import { buildPeer } from "./build-peer.ts";

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
  return buildPeer(
    {
      name: "tessera",
      program: join(CACHE_DIR, "peers", `tessera-${digest.digest("hex").slice(0, 16)}`, "tessera"),
      go: "1.26",
      otherwise: "say --against none",
      building: "building tessera (once, a minute)",
      args: (program) => ["build", "-mod=readonly", "-buildvcs=false", "-o", program, "."],
      cwd: SOURCE,
      timeoutMs: BUILD_MS,
    },
    onStep,
  );
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
