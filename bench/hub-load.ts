import { spawn, type ChildProcessByStdio } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { CACHE_DIR } from "../apps/site/stack/machine.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { buildPeer } from "./build-peer.ts";

/** What the generator says of one command; times in milliseconds. */
export interface LoadResult {
  readonly done: number;
  readonly failed: number;
  /** the last failure */
  readonly failure?: string;
  readonly seconds: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  /** the generator's own */
  readonly cpuMs: number;
}

export interface LoadCommand {
  readonly do: "connect" | "publish" | "hold";
  /** HOST:PORT */
  readonly address: string;
  readonly count: number;
  readonly hands?: number;
  readonly clients?: number;
  readonly window?: number;
  readonly bytes?: number;
  readonly seconds: number;
}

const SOURCE = join(import.meta.dirname, "hub-load");
const BUILD_MS = 5 * 60_000;

/** The load generator, built once into the cache. @throws CountersignError `component-missing` without Go */
export function buildHubLoad(onStep: (what: string) => void): Promise<string> {
  const digest = createHash("sha256");
  for (const file of readdirSync(SOURCE).sort()) digest.update(readFileSync(join(SOURCE, file)));
  return buildPeer(
    {
      name: "the load generator",
      program: join(CACHE_DIR, "peers", `hub-load-${digest.digest("hex").slice(0, 16)}`, "hub-load"),
      go: "1.25",
      otherwise: "leave this benchmark",
      building: "building the load generator (once)",
      args: (program) => ["build", "-buildvcs=false", "-o", program, "."],
      cwd: SOURCE,
      timeoutMs: BUILD_MS,
    },
    onStep,
  );
}

/** The load generator's process: devices that aren't Node. One command at a time. */
export class HubLoad {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;

  constructor(program: string) {
    this.#child = spawn(program, [], { stdio: ["pipe", "pipe", "inherit"] });
    this.#child.stdin.on("error", () => undefined);
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** Makes certificates and keys, in `dir`: ca, root, server and operator, as PEM. */
  async makePki(dir: string): Promise<void> {
    await this.#call({ do: "pki", dir });
  }

  /** A certificate with CN = `code`, signed by the devices' root, as PEM. */
  async verification(code: string): Promise<string> {
    return (await this.#call<{ pem: string }>({ do: "verify", code })).pem;
  }

  /** @throws CountersignError `internal` when more than a hundredth failed: its figures would say nothing */
  async run(command: LoadCommand): Promise<LoadResult> {
    const result = await this.#call<LoadResult>(command);
    if (result.done === 0 || result.failed > result.done / 100) {
      const { done, failed, failure } = result;
      throw new CountersignError(
        "internal",
        `${command.do} at ${command.address}: ${done} done, ${failed} failed: ${failure}`,
      );
    }
    return result;
  }

  async release(): Promise<void> {
    await this.#call({ do: "release" });
  }

  end(): void {
    this.#child.kill();
  }

  async #call<T>(command: object): Promise<T> {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    const line = await this.#lines.next();
    if (line.done === true) throw new CountersignError("internal", "the load generator has ended by itself");
    const answer = JSON.parse(line.value) as T & { error?: string };
    if (answer.error !== undefined) throw new CountersignError("internal", `the load generator: ${answer.error}`);
    return answer;
  }
}
