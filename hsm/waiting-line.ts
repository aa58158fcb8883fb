import { CountersignError } from "../lib/domain/errors.ts";
import type { HsmLimits } from "./limits.ts";

export interface Waiter<T> {
  resolve(value: T): void;
}

interface Entry<T> extends Waiter<T> {
  reject(error: CountersignError): void;
  since: number;
}

/** Those who wait for a session: first come, first served, bounded in number and in time. */
export class WaitingLine<T> {
  readonly #label: string;
  readonly #limits: Pick<HsmLimits, "maxWaiting" | "waitTimeoutMs">;
  #entries: Entry<T>[] = [];
  #head = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(label: string, limits: Pick<HsmLimits, "maxWaiting" | "waitTimeoutMs">) {
    this.#label = label;
    this.#limits = limits;
  }

  get length(): number {
    return this.#entries.length - this.#head;
  }

  /** @throws CountersignError `hsm-unavailable` when the line is full, or the wait too long */
  join(): Promise<T> {
    if (this.length >= this.#limits.maxWaiting) {
      return Promise.reject(lineRefusal(this.#label, `${this.length} signatures wait for it already`, "queue-full"));
    }
    return new Promise((resolve, reject) => {
      this.#entries.push({ resolve, reject, since: performance.now() });
      this.#watch();
    });
  }

  next(): Waiter<T> | undefined {
    const entry = this.#entries[this.#head];
    if (entry === undefined) return undefined;
    // Shifting a long array copies it: the front is cut off now and then.
    if (++this.#head >= 1024) this.#cut();
    return entry;
  }

  refuseAll(why: CountersignError): void {
    const all = this.#entries.slice(this.#head);
    this.#entries = [];
    this.#head = 0;
    for (const entry of all) entry.reject(why);
  }

  #cut(): void {
    this.#entries = this.#entries.slice(this.#head);
    this.#head = 0;
  }

  /** One timer for the whole line: who came first has waited longest. */
  #watch(): void {
    if (this.#timer !== undefined) return;
    const first = this.#entries[this.#head];
    if (first === undefined) {
      this.#cut();
      return;
    }
    const left = first.since + this.#limits.waitTimeoutMs - performance.now();
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        const late = performance.now() - this.#limits.waitTimeoutMs;
        for (let e = this.#entries[this.#head]; e !== undefined && e.since <= late; e = this.#entries[this.#head]) {
          this.#head++;
          e.reject(
            lineRefusal(this.#label, `a session didn't come free within ${this.#limits.waitTimeoutMs} ms`, "waited"),
          );
        }
        this.#watch();
      },
      Math.max(1, left),
    );
    // The leases it waits for hold the process; the line alone doesn't.
    this.#timer.unref();
  }
}

/** Why one isn't signed now: too many wait already, or it has waited for too long. */
export function lineRefusal(token: string, why: string, refused: "queue-full" | "waited"): CountersignError {
  return new CountersignError(
    "hsm-unavailable",
    `token "${token}" can't keep up: ${why}; try again later, or give it more sessions or processes`,
    { details: { token, refused } },
  );
}
