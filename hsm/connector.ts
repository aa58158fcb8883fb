import { CountersignError } from "../lib/domain/errors.ts";
import type { Answer, OnRefused, Results, Work } from "./connector-protocol.ts";
import { Pkcs11Thread } from "./pkcs11-thread.ts";
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
  #thread: Pkcs11Thread | undefined;
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
    let thread: Pkcs11Thread;
    try {
      if (this.#hung >= MAX_HUNG) throw this.#hanging(job);
      thread = this.#thread ??= new Pkcs11Thread(this.#module.path);
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

  #abandon(thread: Pkcs11Thread, job: Job, work: Work, answer: Promise<Answer>, settled: Promise<void>): void {
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
