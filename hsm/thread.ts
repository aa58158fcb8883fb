import { SHARE_ENV, Worker } from "node:worker_threads";
import { CountersignError } from "../lib/domain/errors.ts";

/** A loaded machine takes its time to start a thread. */
const START_MS = 30_000;
/** Nothing that such a thread makes lives for long; without a bound it takes as much as the main thread may. */
const YOUNG_MB = 6;
/** The id of a thread's first message. */
const READY = 0;

interface Message<T> {
  readonly id: number;
  readonly body: T;
}

/** One worker thread and the answer it owes: it is asked one thing at a time. */
export class Thread<Question, Answer> {
  /** Settles when it takes questions. @throws CountersignError `hsm-unavailable` when it ended instead */
  readonly ready: Promise<void>;
  readonly #worker: Worker;
  #usable = false;
  #next = READY;
  #owed: { id: number; resolve: (answer: Answer) => void; reject: (error: CountersignError) => void } | undefined;
  /** Nobody answers any more. */
  #ended: CountersignError | undefined;

  /** @param name of the thread, and what it does, for the message when it has ended */
  constructor(script: URL, { name, does, data }: { name: string; does: string; data?: unknown }) {
    this.#worker = new Worker(script, {
      workerData: data,
      env: SHARE_ENV,
      execArgv: [],
      name,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB },
    });
    const ready = Promise.withResolvers<void>();
    this.ready = ready.promise;
    this.ready.catch(() => undefined);
    const timer = setTimeout(() => lost(), START_MS);
    this.#worker.on("message", ({ id, body }: Message<Answer>) => {
      if (id === READY) {
        clearTimeout(timer);
        this.#usable = true;
        ready.resolve();
      } else if (id === this.#owed?.id) {
        const { resolve } = this.#owed;
        this.#owed = undefined;
        resolve(body);
      }
    });
    const lost = (cause?: unknown): CountersignError => {
      clearTimeout(timer);
      this.#usable = false;
      const message = `the thread that ${does} ended, or didn't start`;
      const error = new CountersignError("hsm-unavailable", message, { cause });
      ready.reject(error);
      this.#owed?.reject(error);
      this.#owed = undefined;
      return error;
    };
    this.#worker.on("error", (cause) => (this.#ended = lost(cause)));
    this.#worker.on("exit", () => (this.#ended ??= lost()));
    // Waiting for work is no reason for a process to live. Last: a listener undoes it.
    this.#worker.unref();
  }

  /** Started, and not ended. */
  get usable(): boolean {
    return this.#usable;
  }

  /** The one who waits keeps the process alive, or doesn't. @throws CountersignError `hsm-unavailable` when it ends */
  ask(question: Question): Promise<Answer> {
    // Who saw it usable may have waited since.
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      const id = ++this.#next;
      this.#owed = { id, resolve, reject };
      this.#worker.postMessage({ id, body: question } satisfies Message<Question>);
    });
  }

  /** Whether its work keeps the process alive. */
  hold(held: boolean): void {
    if (held) this.#worker.ref();
    else this.#worker.unref();
  }

  async end(): Promise<void> {
    await this.#worker.terminate().catch(() => undefined);
  }
}

/** The port of a thread's own side, as far as {@link answerQuestions} needs it. */
interface Port {
  on(event: "message", listener: (message: Message<unknown>) => void): unknown;
  postMessage(message: Message<unknown>): void;
}

/** A thread's own side: answers what is asked, one after the other. @param answer undefined: this one gets no answer */
export function answerQuestions<Question, Answer>(
  port: Port,
  answer: (question: Question) => Answer | undefined,
): void {
  port.on("message", ({ id, body }) => {
    const given = answer(body as Question);
    if (given !== undefined) port.postMessage({ id, body: given });
  });
  port.postMessage({ id: READY, body: undefined });
}
