import { CountersignError } from "../../../lib/domain/errors.ts";
import type { Order } from "./issuing-process.ts";
import type { Outcome } from "./protocol.ts";
import type { Wish } from "./remote-ca-key.ts";

const ANSWER_MS = 75_000;
const MAX_WAITING = 16_384;
const MAX_LOSSES = 3;

interface Entry {
  readonly resolve: (outcome: Outcome) => void;
  readonly reject: (error: CountersignError) => void;
  readonly timer: NodeJS.Timeout;
  /** how many processes have ended over it */
  losses: number;
}

/** What was ordered of the issuing processes and isn't answered yet: bounded in number and in time. */
export class OrderBook {
  readonly #answerMs: number;
  readonly #entries = new Map<number, Entry>();
  #next = 0;

  constructor(answerMs = ANSWER_MS) {
    this.#answerMs = answerMs;
  }

  has(id: number): boolean {
    return this.#entries.has(id);
  }

  /**
   * @param onLate told when nobody answered in time
   * @throws CountersignError `hsm-unavailable` when too many wait
   */
  enter(wish: Wish, onLate: (id: number) => void): { order: Order; outcome: Promise<Outcome> } {
    if (this.#entries.size >= MAX_WAITING) {
      throw new CountersignError("hsm-unavailable", `${MAX_WAITING} signatures wait for the issuing processes already`);
    }
    const order: Order = { ...wish, id: ++this.#next };
    const outcome = new Promise<Outcome>((resolve, reject) => {
      const timer = setTimeout(() => {
        onLate(order.id);
        const message = `no issuing process signed within ${this.#answerMs} ms: check the HSM and the site's log`;
        this.#take(order.id)?.reject(new CountersignError("hsm-unavailable", message));
      }, this.#answerMs);
      this.#entries.set(order.id, { resolve, reject, timer, losses: 0 });
    });
    return { order, outcome };
  }

  settle(outcome: Outcome): void {
    this.#take(outcome.id)?.resolve(outcome);
  }

  /** Its process has ended. Whether another one should try: an order that keeps ending processes is given up. */
  lost({ id }: Order, fault: CountersignError): boolean {
    const entry = this.#entries.get(id);
    if (entry === undefined) return false;
    if (++entry.losses < MAX_LOSSES) return true;
    const message = `${MAX_LOSSES} issuing processes ended over one signature: see the site's log`;
    this.#take(id)?.reject(new CountersignError("hsm-unavailable", message, { cause: fault }));
    return false;
  }

  refuseAll(why: CountersignError): void {
    for (const id of [...this.#entries.keys()]) this.#take(id)?.reject(why);
  }

  #take(id: number): Entry | undefined {
    const entry = this.#entries.get(id);
    clearTimeout(entry?.timer);
    this.#entries.delete(id);
    return entry;
  }
}
