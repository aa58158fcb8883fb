import type { CaKey, TokenConfig, TokenHealth } from "../../../hsm/index.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { IssuingProcess, type Order } from "./issuing-process.ts";
import { fromWire, type KeyFacts, type Outcome } from "./protocol.ts";
import { OrderBook } from "./order-book.ts";
import { RemoteCaKey, type Wish } from "./remote-ca-key.ts";

export interface IssuingProcessesOptions {
  readonly token: TokenConfig;
  readonly processes: number;
  /** PKCS#11 sessions of each */
  readonly sessions: number;
  /** a process was lost and is started again; a token can't be opened yet */
  readonly onFault?: (error: CountersignError) => void;
  /** how long an order may take before it is given up; default 75 s, more than a process's own limits; ms */
  readonly answerMs?: number;
  /** how long a process may be silent before it is killed; default 15 s */
  readonly silentMs?: number;
}

/** Orders a message: small enough that all processes have some of a batch. */
const CHUNK = 32;
const RESTART_MS = [100, 500, 2_000, 5_000] as const;

/**
 * Several processes that sign with one CA's token, each with its own login: SoftHSM signs faster in two processes than
 * on two threads. An order lost with its process goes to another one; signing the same bytes twice does no harm, since
 * only the first stored certificate is ever released.
 */
export class IssuingProcesses {
  readonly #options: IssuingProcessesOptions;
  readonly #processes = new Set<IssuingProcess>();
  readonly #book: OrderBook;
  #unsent: Order[] = [];
  #restarts = 0;
  /** of processes that are gone: what they had asked for again, and what they owed, which others sign again */
  #repeatsOfLost = 0;
  #timer: NodeJS.Timeout | undefined;
  #scheduled = false;
  #stopped = false;

  private constructor(options: IssuingProcessesOptions) {
    this.#options = options;
    this.#book = new OrderBook(options.answerMs);
  }

  /**
   * Starts them one after the other: a PIN that the token refuses is offered by the first alone.
   * @throws CountersignError as `openToken`
   */
  static async start(options: IssuingProcessesOptions): Promise<IssuingProcesses> {
    if (!Number.isInteger(options.processes) || options.processes < 1) {
      throw new CountersignError("input-invalid", `there is at least one issuing process, not ${options.processes}`);
    }
    const all = new IssuingProcesses(options);
    try {
      for (let i = 0; i < options.processes; i++) await all.#spawn().ready;
    } catch (error) {
      await all.stop();
      throw error;
    }
    return all;
  }

  /** @throws CountersignError `hsm-key-missing`, and what keeps the token from answering */
  async caKey(label: string): Promise<CaKey> {
    const outcome = await this.#ask({ kind: "describe", label });
    if (!("key" in outcome)) throw unexpected();
    const facts: KeyFacts = outcome.key;
    return new RemoteCaKey(label, facts, async (wish) => {
      const signed = await this.#ask(wish);
      if (!("der" in signed)) throw unexpected();
      return signed.der;
    });
  }

  /** Of each process, as it last reported. */
  health(): { pid: number | undefined; load: number; token: TokenHealth | undefined }[] {
    return [...this.#processes].map(({ pid, load, health }) => ({ pid, load, token: health }));
  }

  /** Signatures that were asked for again, as far as processes have reported; only grows. */
  get repeats(): number {
    return [...this.#processes].reduce((sum, { health }) => sum + (health?.repeats ?? 0), this.#repeatsOfLost);
  }

  /** Refuses what waits; every process closes its token and ends. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await Promise.all([...this.#processes].map((process) => process.stop()));
    this.#book.refuseAll(stopping());
  }

  async #ask(wish: Wish): Promise<Outcome> {
    if (this.#stopped) throw stopping();
    const { order, outcome } = this.#book.enter(wish, (id) => {
      for (const process of this.#processes) process.forget(id);
    });
    this.#unsent.push(order);
    this.#schedule();
    const settled = await outcome;
    if ("error" in settled) throw fromWire(settled.error);
    return settled;
  }

  /** What is asked in one turn of the event loop goes out together. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#distribute();
    });
  }

  #distribute(): void {
    const orders = this.#unsent.filter(({ id }) => this.#book.has(id));
    this.#unsent = this.#processes.size === 0 ? orders : [];
    if (this.#processes.size === 0) return;
    const sound = [...this.#processes].filter(({ health }) => (health?.circuit ?? "closed") === "closed");
    const able = sound.length > 0 ? sound : [...this.#processes];
    for (let from = 0; from < orders.length; from += CHUNK) {
      const idlest = able.reduce((a, b) => (b.load < a.load ? b : a));
      idlest.take(orders.slice(from, from + CHUNK));
    }
  }

  #spawn(): IssuingProcess {
    const { token, sessions, silentMs } = this.#options;
    const process = new IssuingProcess(
      token,
      sessions,
      {
        outcome: (outcome) => {
          this.#restarts = 0;
          this.#book.settle(outcome);
        },
        ended: (owed) => this.#lost(process, owed),
      },
      silentMs,
    );
    this.#processes.add(process);
    this.#schedule();
    return process;
  }

  #lost(process: IssuingProcess, owed: readonly Order[]): void {
    this.#processes.delete(process);
    this.#repeatsOfLost += (process.health?.repeats ?? 0) + owed.length;
    if (this.#stopped) return;
    const fault = new CountersignError("interrupted", `issuing process ${process.pid ?? ""} ended by itself`);
    this.#options.onFault?.(fault);
    this.#unsent.push(...owed.filter((order) => this.#book.lost(order, fault)));
    this.#schedule();
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined;
        while (!this.#stopped && this.#processes.size < this.#options.processes) {
          this.#spawn().ready.catch((error: CountersignError) => this.#options.onFault?.(error));
        }
      },
      RESTART_MS[Math.min(this.#restarts++, RESTART_MS.length - 1)],
    );
  }
}

function stopping(): CountersignError {
  return new CountersignError("interrupted", "the site is stopping: nothing more is signed");
}

function unexpected(): CountersignError {
  return new CountersignError("internal", "an issuing process answered something else than it was asked");
}
