import { SHARE_ENV, Worker } from "node:worker_threads";
import { CountersignError } from "../lib/domain/errors.ts";
import { type Answer, type OnRefused, READY, type Request, type Results, type Work } from "./connector-protocol.ts";
import type { TokenKeyPair } from "./keys.ts";
import type { Pkcs11Module } from "./module.ts";
import type { Opened } from "./token-access.ts";

/**
 * Opening sessions, logging in and looking for keys, off the main thread: PKCS#11 has only blocking calls for that, and
 * an HSM that is slow or hangs must hold up neither the event loop nor, for ever, the one who waits. Sessions and
 * object handles are the process's, so what this thread opens the others use.
 */

interface Job {
  work: () => Work;
  token: string;
  timeoutMs: number;
  resolve: (value: unknown) => void;
  reject: (error: CountersignError) => void;
  onRefused: OnRefused | undefined;
}

/** Threads that hang in the HSM at once; a further one would hang too. */
const MAX_HUNG = 2;

/** The thread of one module, made when it is first needed, replaced when it hangs. */
export class Connector {
  readonly #module: Pkcs11Module;
  readonly #queue: Job[] = [];
  #thread: Thread | undefined;
  #hung = 0;
  #busy = false;

  constructor(module: Pkcs11Module) {
    this.#module = module;
  }

  /**
   * One piece of work at a time; `timeoutMs` counts from when its turn has come, and only then is `work` called: what an
   * earlier one found out (a refused PIN) counts for the next. `token` is for messages.
   * @throws CountersignError `hsm-unavailable` when it takes longer, and what the work throws
   */
  run<W extends Work>(
    work: () => W,
    token: string,
    timeoutMs: number,
    onRefused?: OnRefused,
  ): Promise<Results[W["op"]]> {
    const done = new Promise<unknown>((resolve, reject) => {
      this.#queue.push({ work, token, timeoutMs, resolve, reject, onRefused });
    });
    if (!this.#busy) void this.#drain();
    return done as Promise<Results[W["op"]]>;
  }

  async #drain(): Promise<void> {
    this.#busy = true;
    for (let job = this.#queue.shift(); job !== undefined; job = this.#queue.shift()) {
      try {
        await this.#module.enter();
        job.resolve(await this.#perform(job));
      } catch (error) {
        job.reject(error as CountersignError);
      }
    }
    this.#busy = false;
  }

  /** The module counts as in use until the native calls have returned, also when nobody waits for them any more. */
  async #perform(job: Job): Promise<unknown> {
    let thread: Thread;
    try {
      if (this.#hung >= MAX_HUNG) throw this.#hanging(job);
      thread = this.#thread ??= new Thread(this.#module.path);
      await thread.ready;
    } catch (error) {
      this.#thread = undefined;
      this.#module.leave();
      throw error;
    }
    const work = job.work();
    const answer = thread.ask(work);
    const settled = answer.then(
      ({ error }) => {
        this.#module.leave();
        if (error?.refused !== undefined) job.onRefused?.(error.refused);
      },
      () => {
        this.#module.leave();
        if (this.#thread === thread) this.#thread = undefined;
      },
    );
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<"late">((resolve) => (timer = setTimeout(() => resolve("late"), job.timeoutMs)));
    const first = await Promise.race([answer, late]).finally(() => clearTimeout(timer));
    if (first === "late") {
      this.#abandon(thread, job, work, answer, settled);
      throw this.#hanging(job);
    }
    await settled;
    if (first.error === undefined) return first.value;
    const { code, message, details, cause } = first.error;
    throw new CountersignError(code, message, { details, ...(cause === undefined ? {} : { cause: new Error(cause) }) });
  }

  #abandon(thread: Thread, job: Job, work: Work, answer: Promise<Answer>, settled: Promise<void>): void {
    this.#hung++;
    this.#thread = undefined;
    thread.abandon();
    // What it opened after all, nobody has a use for.
    answer.then(
      ({ error, ...rest }) => {
        if (error === undefined && work.op === "open" && "value" in rest) {
          const { session } = rest.value as Opened;
          this.run(() => ({ op: "close", sessions: [session] }), job.token, job.timeoutMs).catch(() => undefined);
        }
      },
      () => undefined,
    );
    void settled.then(() => {
      this.#hung--;
      return thread.end();
    });
  }

  #hanging({ token, timeoutMs }: Job): CountersignError {
    return new CountersignError(
      "hsm-unavailable",
      `token "${token}" behind ${this.#module.path} didn't answer within ${timeoutMs} ms: check the HSM and the way to it`,
      { details: { token, timeout: true } },
    );
  }
}

/** A loaded machine takes its time to start a thread, which is no fault of the HSM's. */
const START_MS = 30_000;

/** One worker thread and the answer it owes. */
class Thread {
  /** Settles when it takes work. */
  readonly ready: Promise<void>;
  readonly #worker: Worker;
  readonly #abandoned = new Int32Array(new SharedArrayBuffer(4));
  #next = 0;
  #owed: { id: number; resolve: (answer: Answer) => void; reject: (error: CountersignError) => void } | undefined;

  constructor(path: string) {
    const script = new URL("./connector-thread.ts", import.meta.url);
    this.#worker = new Worker(script, {
      workerData: { path, abandoned: this.#abandoned },
      env: SHARE_ENV,
      execArgv: [],
      name: "pkcs11",
    });
    let began = (): void => undefined;
    let failed: (error: CountersignError) => void = () => undefined;
    this.ready = new Promise<void>((resolve, reject) => ([began, failed] = [resolve, reject]));
    const timer = setTimeout(() => gone(), START_MS);
    this.#worker.on("message", (answer: Answer) => {
      clearTimeout(timer);
      if (answer.id === READY) began();
      else if (answer.id === this.#owed?.id) this.#owed.resolve(restored(answer));
    });
    const gone = (cause?: unknown): void => {
      clearTimeout(timer);
      const message = `the thread that reaches PKCS#11 module ${path} ended, or didn't start`;
      const error = new CountersignError("hsm-unavailable", message, { cause });
      failed(error);
      this.#owed?.reject(error);
    };
    this.ready.catch(() => undefined);
    this.#worker.on("error", gone);
    this.#worker.on("exit", () => gone());
    // Waiting for work is no reason for a process to live; whoever waits for an answer has a timer. Last: a listener undoes it.
    this.#worker.unref();
  }

  ask(work: Work): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const id = ++this.#next;
      this.#owed = { id, resolve, reject };
      this.#worker.postMessage({ id, work } satisfies Request);
    });
  }

  abandon(): void {
    Atomics.store(this.#abandoned, 0, 1);
  }

  async end(): Promise<void> {
    await this.#worker.terminate().catch(() => undefined);
  }
}

/** Structured cloning makes plain Uint8Arrays of handles, which pkcs11js doesn't take. */
function restored(answer: Answer): Answer {
  if (answer.error !== undefined) return answer;
  const { value } = answer;
  if (typeof value !== "object" || value === null) return answer;
  if ("session" in value) {
    const { session, slot } = value as Opened;
    return { id: answer.id, value: { session: Buffer.from(session), slot: { ...slot, slot: Buffer.from(slot.slot) } } };
  }
  const pair = value as TokenKeyPair;
  const handles = { privateKey: Buffer.from(pair.privateKey), publicKey: Buffer.from(pair.publicKey) };
  return { id: answer.id, value: { ...pair, ...handles } };
}
