import { fork } from "node:child_process";
import { join } from "node:path";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { ConnectResult, StoredReading } from "./connect.ts";
import { engineFolder } from "./places.ts";
import { withKeyServer } from "./key-server.ts";
import { type Tray, trayEnvironment } from "./tray.ts";

export interface MakeJob {
  kind: "make";
  tray: string;
  /** `<out>/<deviceId>/csr.pem` is written, and read where it is there already. */
  out?: string;
  devices: string[];
  /** Without it only CSRs are made, with keys that are there. */
  makeKeys: boolean;
}

export interface ConnectJob {
  kind: "connect";
  tray: string;
  hub: string;
  ca: string;
  messages: number;
  /** between a device's messages; all at once unless given */
  intervalMs?: number;
  timeoutMs: number;
  concurrency: number;
  devices: { deviceId: string; chain: string }[];
}

export type TrayJob = MakeJob | ConnectJob;

interface Failure {
  code: string;
  message: string;
}

export interface MadeDevice {
  deviceId: string;
  /** PEM */
  csr: string;
  /** Hex SHA-256 of the key's SPKI. */
  keyId: string;
  /** False when the key was there before. */
  created: boolean;
}

export type MakeOutcome = MadeDevice | { deviceId: string; error: Failure };
export type ConnectOutcome = ConnectResult | { deviceId: string; error: Failure };
export type { StoredReading } from "./connect.ts";
export type TrayReport =
  MakeOutcome | ConnectOutcome | { stored: StoredReading } | { done: true } | { failed: Failure };

/**
 * Runs one job in a child process that sees this tray's tokens and no other. Everything crosses by IPC: no PIN is in it,
 * and nothing is in the child's arguments.
 * @throws the tray's own failure, or CountersignError `internal` when the child dies
 */
export function runInTray(tray: Tray, job: MakeJob, onOutcome: (outcome: MakeOutcome) => void): Promise<void>;
export function runInTray(
  tray: Tray,
  job: ConnectJob,
  onOutcome: (outcome: ConnectOutcome) => void,
  onStored?: (stored: StoredReading) => void,
): Promise<void>;
export function runInTray(
  tray: Tray,
  job: TrayJob,
  onOutcome: (outcome: never) => void,
  onStored?: (stored: StoredReading) => void,
): Promise<void> {
  const engine = job.kind === "connect" ? engineFolder() : undefined;
  const run = (environment: NodeJS.ProcessEnv) => runChild(tray, job, environment, onOutcome, onStored);
  if (tray.tpm === undefined || engine === undefined) return run(trayEnvironment(tray, engine));
  // OpenSSL's engine fails on tpm2-pkcs11 itself, and works through p11-kit's server.
  return withKeyServer(tray, (reached) => run({ ...reached, OPENSSL_ENGINES: engine }));
}

function runChild(
  tray: Tray,
  job: TrayJob,
  environment: NodeJS.ProcessEnv,
  onOutcome: (outcome: never) => void,
  onStored?: (stored: StoredReading) => void,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = fork(join(import.meta.dirname, "tray-worker.ts"), [], {
      execArgv: [],
      // The engine's habit of greeting on stderr isn't news; the child's own words come as reports.
      stdio: ["ignore", "inherit", "pipe", "ipc"],
      env: { ...process.env, ...environment },
    });
    let complaints = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (complaints = (complaints + text).slice(-2_000)));
    let end: (() => void) | undefined;
    child.on("message", (report: TrayReport) => {
      if ("done" in report) end = resolve;
      else if ("stored" in report) onStored?.(report.stored);
      else if ("failed" in report) end = () => reject(failureOf(report.failed));
      else onOutcome(report as never);
    });
    child.once("error", (cause) => reject(internal(tray, String(cause))));
    child.once("exit", (code, signal) => {
      if (end !== undefined) end();
      else reject(internal(tray, `it ended with ${signal ?? code}: ${complaints.trim().slice(-500)}`));
    });
    child.send(job, (error) => {
      if (error) reject(internal(tray, error.message));
    });
  });
}

/** The one device's outcome; its failure is thrown. */
export function only<T extends MakeOutcome | ConnectOutcome>(outcomes: readonly T[]): Exclude<T, { error: unknown }> {
  const outcome = outcomes[0];
  if (outcome === undefined) throw new CountersignError("internal", "the device's process said nothing");
  if ("error" in outcome) throw failureOf(outcome.error);
  return outcome as Exclude<T, { error: unknown }>;
}

export function failureOf(failure: Failure): CountersignError {
  const code = Object.hasOwn(ERROR_KINDS, failure.code) ? (failure.code as ErrorCode) : "internal";
  return new CountersignError(code, failure.message);
}

function internal(tray: Tray, why: string): CountersignError {
  return new CountersignError("internal", `the process of the device tray ${tray.dir} failed: ${why}`);
}
