import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type TokenConfig, type TokenHealth, threadsForSessions } from "../../../hsm/index.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { IssuerInfo } from "../../../lib/pki/issuer.ts";
import { fromWire, type FromProcess, type Job, type Outcome, type ToProcess } from "./protocol.ts";

/** A job without its place in a message. */
export type Order = Job extends infer J
  ? J extends { issuer: number }
    ? Omit<J, "issuer"> & { issuer: IssuerInfo }
    : J
  : never;

export interface ProcessEvents {
  outcome(outcome: Outcome): void;
  /** It has ended, or was killed because it hung; `owed` are the orders it took and never answered. */
  ended(owed: Order[]): void;
}

const PING_MS = 1_000;
/** Blocked that long in a native call: the module hangs where PKCS#11 has only blocking calls. */
const SILENT_MS = 15_000;
/** A loaded machine takes its time to start a process. */
const START_MS = 60_000;
const STOP_MS = 10_000;

/** The site's end of one issuing process. */
export class IssuingProcess {
  /** Its token is open. Rejects with why it isn't, or with the process's end. */
  readonly ready: Promise<void>;
  readonly #child: ChildProcess;
  readonly #events: ProcessEvents;
  readonly #exited: Promise<void>;
  readonly #owed = new Map<number, Order>();
  readonly #pings: NodeJS.Timeout;
  readonly #started = performance.now();
  #heard: number | undefined;
  #health: TokenHealth | undefined;

  constructor(token: TokenConfig, sessions: number, events: ProcessEvents, silentMs = SILENT_MS) {
    this.#events = events;
    this.#child = fork(fileURLToPath(new URL("./signing-process.ts", import.meta.url)), [], {
      serialization: "advanced",
      execArgv: [],
      env: { ...process.env, UV_THREADPOOL_SIZE: String(threadsForSessions(sessions)) },
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    const ready = Promise.withResolvers<void>();
    this.ready = ready.promise;
    this.ready.catch(() => undefined);
    this.#child.on("message", (message: FromProcess) => {
      this.#heard = performance.now();
      if (message.type === "ready") {
        if (message.error === undefined) ready.resolve();
        else ready.reject(fromWire(message.error));
        return;
      }
      if (message.health !== undefined) this.#health = message.health;
      if (message.type === "outcomes") for (const outcome of message.outcomes) this.#answered(outcome);
    });
    this.#exited = new Promise((resolve) => {
      const gone = (cause?: unknown): void => {
        clearInterval(this.#pings);
        ready.reject(new CountersignError("interrupted", "an issuing process ended", { cause }));
        const owed = [...this.#owed.values()];
        this.#owed.clear();
        events.ended(owed);
        resolve();
      };
      this.#child.once("exit", () => gone());
      // Couldn't be started at all: there is no exit then.
      this.#child.once("error", (cause) => {
        if (this.#child.pid === undefined) gone(cause);
      });
    });
    this.#pings = setInterval(
      () => {
        if (this.#silentFor() > (this.#heard === undefined ? START_MS : silentMs)) this.#child.kill("SIGKILL");
        else this.#send({ type: "ping" });
      },
      Math.min(PING_MS, silentMs / 3),
    );
    this.#send({ type: "configure", token: { ...token, sessions } });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Orders it has and hasn't answered. */
  get load(): number {
    return this.#owed.size;
  }

  /** As it last reported. */
  get health(): TokenHealth | undefined {
    return this.#health;
  }

  take(orders: readonly Order[]): void {
    const issuers = new Map<IssuerInfo, number>();
    const jobs = orders.map((order): Job => {
      this.#owed.set(order.id, order);
      if (!("issuer" in order)) return order;
      let index = issuers.get(order.issuer);
      if (index === undefined) issuers.set(order.issuer, (index = issuers.size));
      return { ...order, issuer: index };
    });
    this.#send({ type: "sign", issuers: [...issuers.keys()], jobs });
  }

  /** Nobody waits for it any more. */
  forget(id: number): void {
    this.#owed.delete(id);
  }

  /** Lets it close its token; kills it when that takes too long. */
  async stop(): Promise<void> {
    clearInterval(this.#pings);
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), STOP_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  #silentFor(): number {
    return performance.now() - (this.#heard ?? this.#started);
  }

  #answered(outcome: Outcome): void {
    if (this.#owed.delete(outcome.id)) this.#events.outcome(outcome);
  }

  #send(message: ToProcess): void {
    // What can't be sent belongs to a process that has ended: its exit tells.
    if (this.#child.connected) this.#child.send(message, undefined, undefined, () => undefined);
  }
}
