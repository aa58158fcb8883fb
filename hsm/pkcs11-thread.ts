import { SHARE_ENV, Worker } from "node:worker_threads";
import { CountersignError } from "../lib/domain/errors.ts";
import { type Answer, READY, type Request, type Work } from "./connector-protocol.ts";
import type { TokenKeyPair } from "./keys.ts";
import type { Opened } from "./token-access.ts";

/** A loaded machine takes its time to start a thread, which is no fault of the HSM's. */
const START_MS = 30_000;

/** One worker thread and the answer it owes. */
export class Pkcs11Thread {
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
