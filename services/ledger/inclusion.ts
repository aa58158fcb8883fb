import { fromHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { Db } from "../../store/db.ts";
import { CHECKPOINT_CHANNEL, readHopeless, readIncluded, readNewlyIncluded } from "../../store/ledger.ts";
import { listen, type Subscription } from "../../store/listen.ts";

export interface Included {
  /** hex */
  readonly retryKey: string;
  /** hex */
  readonly leafHash: string;
  readonly index: number;
  /** the size of a signed, stored checkpoint that covers it */
  readonly checkpointSize: number;
}
export interface WaitOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

interface Waiter {
  readonly found: Map<string, Included>;
  readonly keys: readonly string[];
  /** distinct keys among them */
  readonly distinct: number;
  settle(error?: Error): void;
}

const POLL_MS = 1000;
const CHUNK = 4096;

/**
 * Wakes who waits for inclusion. One connection listens for everybody, and a new checkpoint costs one query over the
 * leaves it added, however many wait. A poll every second stands in for notifications that got lost.
 */
export class InclusionWatch {
  readonly #db: Db;
  readonly #waiting = new Map<string, Set<Waiter>>();
  readonly #fresh = new Set<string>();
  #subscription: Subscription | undefined;
  #subscribing = false;
  #poll: NodeJS.Timeout | undefined;
  #running = false;
  #due: "none" | "growth" | "all" = "none";
  #seen = 0;
  #closed = false;

  constructor(db: Db) {
    this.#db = db;
  }

  wait(retryKeys: readonly string[], { timeoutMs, signal }: WaitOptions): Promise<Included[]> {
    if (retryKeys.length === 0) return Promise.resolve([]);
    return new Promise((resolve, reject) => {
      const distinct = [...new Set(retryKeys)];
      const timeout = (): CountersignError => {
        const missing = distinct.length - waiter.found.size;
        return new CountersignError(
          "timeout",
          `${missing} of ${distinct.length} acts were not under a signed checkpoint after ${timeoutMs} ms: is the sequencer running?`,
        );
      };
      const timer = setTimeout(() => waiter.settle(timeout()), timeoutMs);
      const onAbort = (): void => waiter.settle(timeout());
      const waiter: Waiter = {
        found: new Map(),
        keys: retryKeys,
        distinct: distinct.length,
        settle: (error) => {
          clearTimeout(timer);
          signal?.removeEventListener("abort", onAbort);
          for (const key of distinct) {
            const waiters = this.#waiting.get(key);
            waiters?.delete(waiter);
            if (waiters?.size === 0) this.#waiting.delete(key);
          }
          if (this.#waiting.size === 0) this.#idle();
          if (error !== undefined) reject(error);
          else resolve(retryKeys.map((key) => waiter.found.get(key)!));
        },
      };
      for (const key of distinct) {
        const waiters = this.#waiting.get(key);
        if (waiters === undefined) this.#waiting.set(key, new Set([waiter]));
        else waiters.add(waiter);
        this.#fresh.add(key);
      }
      if (this.#closed || signal?.aborted === true) return waiter.settle(timeout());
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#poll ??= setInterval(() => this.#check("all"), POLL_MS);
      this.#subscribe();
      this.#check("none");
    });
  }

  close(): void {
    this.#closed = true;
    const waiters = new Set([...this.#waiting.values()].flatMap((set) => [...set]));
    for (const waiter of waiters) waiter.settle(new CountersignError("timeout", "the wait for the ledger was ended"));
    this.#idle();
    this.#subscription?.close();
    this.#subscription = undefined;
  }

  #idle(): void {
    clearInterval(this.#poll);
    this.#poll = undefined;
  }

  #subscribe(): void {
    if (this.#subscription !== undefined || this.#subscribing || this.#closed) return;
    this.#subscribing = true;
    const lost = (): void => {
      // The poll goes on; the next wait subscribes again.
      this.#subscription = undefined;
    };
    const notified = (payload: string): void => this.#check(payload === "refused" ? "all" : "growth");
    listen(this.#db, CHECKPOINT_CHANNEL, notified, lost)
      .then((subscription) => {
        if (this.#closed) subscription.close();
        else {
          this.#subscription = subscription;
          // What was stored while the subscription was under way.
          this.#check("growth");
        }
      })
      .catch(lost)
      .finally(() => {
        this.#subscribing = false;
      });
  }

  /** Runs one look at the database at a time; what becomes due meanwhile runs after it. */
  #check(kind: "none" | "growth" | "all"): void {
    if (kind === "all" || (kind === "growth" && this.#due === "none")) this.#due = kind;
    if (this.#running) return;
    this.#running = true;
    // A turn of the event loop gathers the waits that begin together.
    setImmediate(() => void this.#look());
  }

  async #look(): Promise<void> {
    try {
      while (!this.#closed && this.#waiting.size > 0 && (this.#fresh.size > 0 || this.#due !== "none")) {
        const due = this.#due;
        this.#due = "none";
        // New keys first: once they are known not to be covered, only growth can bring them.
        const asked = due === "all" ? [...this.#waiting.keys()] : [...this.#fresh];
        this.#fresh.clear();
        for (let at = 0; at < asked.length; at += CHUNK) {
          const some = asked.slice(at, at + CHUNK);
          await this.#ask(some);
          // Hardly ever there is any: those that begin to wait leave it to the poll.
          if (due === "all") await this.#askHopeless(some.filter((key) => this.#waiting.has(key)));
        }
        if (due === "growth") await this.#askGrowth();
      }
    } catch {
      // Out of reach: the poll asks again until the waiters' own time is up.
    } finally {
      this.#running = false;
    }
  }

  async #ask(keys: readonly string[]): Promise<void> {
    this.#found(await readIncluded(this.#db, keys));
  }

  async #askHopeless(keys: readonly string[]): Promise<void> {
    for (const { retryKey, type, refused } of await readHopeless(this.#db, keys.map(fromHex))) {
      const error =
        type === null
          ? new CountersignError("not-found", `no act was recorded as ${retryKey}`)
          : new CountersignError("act-invalid", `the ledger refused the ${type} act: ${refused}`);
      this.#fail(retryKey, error);
    }
  }

  async #askGrowth(): Promise<void> {
    const from = this.#seen;
    const { size, leaves } = await readNewlyIncluded(this.#db, from, this.#waiting.size * 4 + 1024);
    this.#seen = size;
    if (leaves === undefined) {
      // Far more was added than anybody here waits for: ask for those alone.
      const keys = [...this.#waiting.keys()];
      for (let at = 0; at < keys.length; at += CHUNK) await this.#ask(keys.slice(at, at + CHUNK));
      return;
    }
    for (const [i, { retryKey, leafHash }] of leaves.entries()) {
      if (this.#waiting.has(retryKey)) this.#found([{ retryKey, leafHash, index: from + i, checkpointSize: size }]);
    }
  }

  #found(rows: readonly Included[]): void {
    for (const row of rows) {
      for (const waiter of this.#waiting.get(row.retryKey) ?? []) {
        waiter.found.set(row.retryKey, row);
        if (waiter.found.size === waiter.distinct) waiter.settle();
      }
    }
  }

  #fail(key: string, error: Error): void {
    for (const waiter of this.#waiting.get(key) ?? []) waiter.settle(error);
  }
}
