import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Socket } from "node:net";
import { CountersignError, isCountersignError } from "../../../lib/domain/errors.ts";

export interface ChildOptions {
  /** For messages only. */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** Standard output and error are appended here; the file and its folder are made when missing (0600, 0700). */
  readonly logFile: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly uid?: number;
  readonly gid?: number;
  /** Opens a Node IPC channel, so that `child.process.send` works. For children that are Node processes. */
  readonly ipc?: boolean;
  /** Asks the child to end in good order. Default SIGTERM. */
  readonly stopSignal?: "SIGTERM" | "SIGINT" | "SIGQUIT";
  /** Milliseconds between the stop signal and SIGKILL. Default 10 000. */
  readonly stopTimeoutMs?: number;
}

/** Ports are chosen before they are listened on; that so many are taken in between is no accident any more. */
const PORT_ATTEMPTS = 5;

export interface ExitStatus {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/**
 * Becomes the command, after leaving behind a guard that waits on the lifeline (descriptor 3, a pipe only the
 * supervisor holds open). End of file there means that the supervisor is gone, even by SIGKILL: the guard then ends
 * the command, so no server outlives its stack. A line on the lifeline means that the command has already been reaped:
 * the guard leaves without a signal, since the process id may belong to a stranger by then. The guard is forked twice
 * so that the command never sees a child process that it did not start (Postgres would take its exit for a crash), and
 * lets go of the IPC channel (descriptor 4), whose closing is how either end learns that the other is gone.
 */
const GUARDED_EXEC = `
child=$$; signal=$1; tenths=$2; shift 2
( (
  trap '' INT TERM HUP QUIT
  exec 4<&-
  read -r word <&3 && exit 0
  kill -s "$signal" "$child" 2>/dev/null || exit 0
  while [ "$tenths" -gt 0 ]; do kill -0 "$child" 2>/dev/null || exit 0; sleep 0.1; tenths=$((tenths - 1)); done
  kill -s KILL "$child" 2>/dev/null
) </dev/null >/dev/null 2>&1 & )
exec 3<&-
umask 077
exec "$@"
`;

/** A running child in a process group of its own: a Ctrl-C at the terminal reaches the supervisor only. */
export class Child {
  readonly name: string;
  readonly pid: number;
  readonly process: ChildProcess;
  readonly logFile: string;
  /** Settles when the process has ended, whatever the reason. Never rejects. */
  readonly exited: Promise<ExitStatus>;
  readonly #stopSignal: NodeJS.Signals;
  readonly #stopTimeoutMs: number;
  readonly #logStart: number;
  #status: ExitStatus | undefined;

  private constructor(options: ChildOptions, process: ChildProcess, pid: number, logStart: number) {
    this.name = options.name;
    this.pid = pid;
    this.process = process;
    this.logFile = options.logFile;
    this.#logStart = logStart;
    this.#stopSignal = options.stopSignal ?? "SIGTERM";
    this.#stopTimeoutMs = options.stopTimeoutMs ?? 10_000;
    const lifeline = process.stdio[3] as Socket;
    // The guard may be gone already; a broken pipe then is no news.
    lifeline.on("error", () => {});
    this.exited = new Promise((resolve) => {
      process.once("exit", (code, signal) => {
        this.#status = { code, signal };
        lifeline.end("reaped\n");
        resolve(this.#status);
      });
    });
  }

  /** @throws CountersignError component-missing when the command can't be run at all */
  static async start(options: ChildOptions): Promise<Child> {
    mkdirSync(dirname(options.logFile), { recursive: true, mode: 0o700 });
    const log = openSync(options.logFile, "a", 0o600);
    const logStart = fstatSync(log).size;
    const tenths = String(Math.ceil((options.stopTimeoutMs ?? 10_000) / 100));
    const signal = (options.stopSignal ?? "SIGTERM").slice(3);
    try {
      const child = spawn(
        "/bin/sh",
        ["-c", GUARDED_EXEC, options.name, signal, tenths, options.command, ...options.args],
        {
          detached: true,
          stdio: ["ignore", log, log, "pipe", ...(options.ipc === true ? (["ipc"] as const) : [])],
          env: options.env ?? process.env,
          ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
          ...(options.uid === undefined ? {} : { uid: options.uid }),
          ...(options.gid === undefined ? {} : { gid: options.gid }),
        },
      );
      await new Promise<void>((resolve, reject) => {
        child.once("spawn", resolve);
        child.once("error", reject);
      });
      return new Child(options, child, child.pid as number, logStart);
    } catch (cause) {
      throw new CountersignError("component-missing", `${options.name} can't be started: ${String(cause)}`, { cause });
    } finally {
      closeSync(log);
    }
  }

  get running(): boolean {
    return this.#status === undefined;
  }

  /** Stop signal, then SIGKILL at the deadline. Safe to call twice, or after the child has ended. */
  async stop(): Promise<ExitStatus> {
    if (this.#status !== undefined) return this.#status;
    this.process.kill(this.#stopSignal);
    const deadline = setTimeout(() => this.process.kill("SIGKILL"), this.#stopTimeoutMs);
    try {
      return await this.exited;
    } finally {
      clearTimeout(deadline);
    }
  }

  /** The last lines that this child wrote, for error messages. */
  logTail(lines = 12): string {
    try {
      const written = readFileSync(this.logFile).subarray(this.#logStart).toString("utf8");
      return written.trimEnd().split("\n").slice(-lines).join("\n");
    } catch {
      return "(no log)";
    }
  }
}

/** Whether a child ended because somebody else had taken its port after it was chosen. Another port helps. */
export function isPortTaken(error: unknown): boolean {
  return isCountersignError(error) && error.details["portTaken"] === true;
}

/** Tries with ports of its own choice until they are still free when they are listened on. */
export async function withFreshPorts<T>(start: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start();
    } catch (error) {
      if (!isPortTaken(error) || attempt === PORT_ATTEMPTS) throw error;
    }
  }
}

/**
 * Polls `probe` until it returns true. A probe that throws counts as not ready yet; its error becomes the cause.
 *
 * @throws CountersignError component-unreachable with the end of the child's log when the child ends first (for want of
 *   its port: see {@link isPortTaken}) or the deadline passes; the signal's reason
 */
export async function waitUntilReady(
  child: Child,
  probe: () => Promise<boolean>,
  timeoutMs: number,
  stopped?: AbortSignal,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  let cause: unknown;
  while (child.running && Date.now() < deadline) {
    try {
      if (await probe()) return;
    } catch (error) {
      cause = error;
    }
    stopped?.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const portTaken = /EADDRINUSE|address already in use/i.test(child.logTail(100));
  const what = child.running ? `was not ready after ${timeoutMs / 1000} s` : "ended while starting";
  throw new CountersignError(
    "component-unreachable",
    `${child.name} ${what}; its log ${child.logFile} ends with:\n${child.logTail()}`,
    { cause, details: { portTaken: portTaken && !child.running } },
  );
}
