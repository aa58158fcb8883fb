import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { Connection } from "@temporalio/client";
import { Child, isPortTaken, waitUntilReady, withFreshPorts } from "./child.ts";
import { freePort, isPortFree } from "./ports.ts";
import { findTemporal } from "./machine.ts";

export interface TemporalOptions {
  /** SQLite file that holds all state; survives a kill -9. In memory when absent. */
  readonly dbFile?: string;
  readonly namespaces: readonly [string, ...string[]];
  readonly logFile: string;
  /** gRPC port on 127.0.0.1; a free one when absent. */
  readonly port?: number;
  /** Custom search attributes, name to Temporal type, for example `{ PartyId: "Keyword" }`. */
  readonly searchAttributes?: Readonly<Record<string, string>>;
  /** Server dynamic configuration, key to JSON value. */
  readonly dynamicConfig?: Readonly<Record<string, string | number | boolean>>;
  /** The `temporal` program; what set-up found when absent. */
  readonly binary?: string;
  readonly readyTimeoutMs?: number;
  /** Gets each process that is tried, before it serves. */
  readonly onChild?: (child: Child) => void;
}

export interface Temporal {
  /** host:port for `Connection.connect({ address })`. */
  readonly address: string;
  readonly port: number;
  readonly pid: number;
  readonly child: Child;
  stop(): Promise<void>;
}

/** What a server says that starts while its predecessor, whose supervisor was killed, is still shutting down. */
const PREDECESSOR = /database is locked|address already in use/;
const RETRY_MS = 250;
/** Longer than a server takes to stop. */
const PREDECESSOR_MS = 20_000;

/**
 * Starts a Temporal dev server on loopback and waits until its namespaces answer.
 *
 * @throws CountersignError component-missing without the `temporal` program, component-unreachable when it doesn't come up
 */
export async function startTemporal(options: TemporalOptions): Promise<Temporal> {
  if (options.port !== undefined) return await startOn(options.port, options);
  return await withFreshPorts(async () => await startOn(await freePort(), options));
}

async function startOn(port: number, options: TemporalOptions): Promise<Temporal> {
  const binary = options.binary ?? findTemporal();
  const address = `127.0.0.1:${port}`;
  const again = options.dbFile !== undefined && existsSync(served(options.dbFile));
  if (options.dbFile !== undefined) prepare(options.dbFile);

  const deadline = Date.now() + (options.readyTimeoutMs ?? 60_000);
  const patience = Date.now() + PREDECESSOR_MS;
  for (;;) {
    const child = await launch(binary, port, options);
    options.onChild?.(child);
    try {
      await waitUntilReady(child, () => serves(address, options.namespaces), deadline - Date.now());
      if (options.dbFile !== undefined) writeFileSync(served(options.dbFile), "");
      const stop = async () => {
        await child.stop();
      };
      return { address, port, pid: child.pid, child, stop };
    } catch (error) {
      const waitFor = !child.running && PREDECESSOR.test(child.logTail(100));
      await child.stop();
      // Its own predecessor is gone by then: it is somebody else who listens there.
      const strange = isPortTaken(error) && !(await isPortFree(port)) && (!again || Date.now() > patience);
      if (!waitFor || strange || Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** As durable as SQLite's own default, for one append and one sync a commit, where that writes and syncs two files. */
const WRITE_AHEAD = ["--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=full"];

async function launch(binary: string, port: number, options: TemporalOptions): Promise<Child> {
  const httpPort = await freePort(new Set([port]));
  const metricsPort = await freePort(new Set([port, httpPort]));
  const { namespaces, dbFile, searchAttributes = {}, dynamicConfig = {} } = options;
  return Child.start({
    name: "Temporal",
    command: binary,
    args: [
      ...["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", String(port)],
      ...["--http-port", String(httpPort), "--metrics-port", String(metricsPort), "--log-level", "warn"],
      ...namespaces.flatMap((namespace) => ["--namespace", namespace]),
      ...(dbFile === undefined ? [] : ["--db-filename", dbFile, ...WRITE_AHEAD]),
      ...Object.entries(searchAttributes).flatMap(([name, type]) => ["--search-attribute", `${name}=${type}`]),
      ...Object.entries(dynamicConfig).flatMap(([key, value]) => [
        "--dynamic-config-value",
        `${key}=${JSON.stringify(value)}`,
      ]),
    ],
    logFile: options.logFile,
    // The command line's own settings and login of whoever runs us stay out of the server.
    env: { PATH: process.env["PATH"], HOME: process.env["HOME"], TMPDIR: process.env["TMPDIR"] },
    stopTimeoutMs: 15_000,
  });
}

const served = (dbFile: string) => `${dbFile}.served`;

/**
 * A server killed while it made its tables leaves a file that no server can start on. Such a file never served anyone,
 * so it's made anew; one that has served is never touched.
 */
function prepare(dbFile: string): void {
  mkdirSync(dirname(dbFile), { recursive: true, mode: 0o700 });
  if (existsSync(served(dbFile))) return;
  for (const suffix of ["", "-wal", "-shm", "-journal"]) rmSync(dbFile + suffix, { force: true });
}

/** gRPC health of the workflow service, then every namespace: the first answers before the second is registered. */
async function serves(address: string, namespaces: readonly string[]): Promise<boolean> {
  const connection = await Connection.connect({ address, connectTimeout: 2_000 });
  try {
    const health = await connection.healthService.check({ service: "temporal.api.workflowservice.v1.WorkflowService" });
    if (health.status !== 1) return false; // SERVING
    for (const namespace of namespaces) await connection.workflowService.describeNamespace({ namespace });
    return true;
  } finally {
    await connection.close();
  }
}
