import type { CountersignError } from "../lib/domain/errors.ts";
import { Chunk, type ChunkKey, type Wanted } from "./chunk.ts";
import { CHUNK, type ChunkReport, JUDGED_BY, MAX_MESSAGE_BYTES, SLOW_MS } from "./chunk-protocol.ts";
import { isSessionLost } from "./errors.ts";
import type { HsmLimits } from "./limits.ts";
import type { PooledSession } from "./pooled-session.ts";
import type { SessionPool } from "./session-pool.ts";
import { SigningThread } from "./signing-thread.ts";
import type { TokenLink } from "./token-link.ts";
import { lineRefusal } from "./waiting-line.ts";

interface Entry extends Wanted {
  /** signs it on a session of its own */
  readonly alone: () => Promise<Uint8Array>;
}

/** Fewer go by themselves: no thread is started for one certificate. */
const FEW = JUDGED_BY;
/** A token that was slow, or hung, is tried again after so many of its `retryAfterMs`. */
const TRY_AGAIN = 10;
/** Threads that hang in the HSM at once; a further one would hang too. */
const MAX_HUNG = 2;

/**
 * Signatures that are asked for together are made on a thread that signs and verifies one after the other, for as long as
 * the token takes less than 0.3 ms for one: by itself, each costs as much again for waking threads. On a token that
 * takes longer each has a session to itself, so that all sessions work side by side; a few are tried on the thread now and
 * then, to see whether that has changed.
 *
 * Each signature keeps its own answer: one that fails, hangs or doesn't verify ends its chunk, those before it are
 * released, and those after it, for which nobody was asked yet, go on with a new session.
 */
export class ChunkSigner {
  readonly #link: TokenLink;
  readonly #pool: SessionPool;
  readonly #limits: HsmLimits;
  readonly #waiting: Entry[] = [];
  #thread: SigningThread | undefined;
  #hung = 0;
  #busy = false;
  #quick = false;
  #tryAt = 0;
  #scheduled = false;
  #closed = false;

  constructor(link: TokenLink, pool: SessionPool, limits: HsmLimits) {
    this.#link = link;
    this.#pool = pool;
    this.#limits = limits;
  }

  /** Those that wait for their turn on the thread. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * One attempt at a verified signature. The message must not change until it is answered.
   * @throws what `alone` throws, the session pool or the token; CountersignError `hsm-unavailable` when too many wait
   */
  sign(key: ChunkKey, message: Uint8Array, alone: () => Promise<Uint8Array>): Promise<Uint8Array> {
    if (this.#closed || message.length > MAX_MESSAGE_BYTES) return alone();
    const { length } = this.#waiting;
    if (length >= this.#limits.maxWaiting) {
      return Promise.reject(lineRefusal(this.#link.label, `${length} signatures wait for it already`, "queue-full"));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ key, message, alone, resolve, reject });
      if (this.#scheduled) return;
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.#handOut();
      });
    });
  }

  /** Everyone who waits is told at once. */
  refuseWaiting(why: CountersignError): void {
    for (const { reject } of this.#waiting.splice(0)) reject(why);
  }

  /** What waits, and what comes, goes to the pool. */
  close(): void {
    this.#closed = true;
    this.#allAlone();
  }

  /** Ends the thread; nothing may be under way any more. */
  async end(): Promise<void> {
    await this.#thread?.end();
  }

  #handOut(): void {
    // What came meanwhile goes on as soon as this chunk is back.
    if (this.#busy && this.#quick) return;
    const thread = this.#busy || this.#waiting.length < FEW ? undefined : this.#usableThread();
    if (thread !== undefined) {
      void this.#chunk(thread, this.#take(this.#quick ? CHUNK : FEW));
      if (this.#quick) return;
    }
    this.#allAlone();
  }

  #allAlone(): void {
    for (const { alone, resolve } of this.#waiting.splice(0)) resolve(alone());
  }

  /** Those of the first one's key, as far as they follow each other. */
  #take(most: number): Entry[] {
    const { key } = this.#waiting[0]!;
    const other = this.#waiting.findIndex((entry) => entry.key !== key);
    return this.#waiting.splice(0, other === -1 ? most : Math.min(most, other));
  }

  /** None while it starts, and none for a token that is known to be slow, or hangs. */
  #usableThread(): SigningThread | undefined {
    if (this.#closed || (!this.#quick && performance.now() < this.#tryAt)) return undefined;
    if (this.#hung < MAX_HUNG) this.#thread ??= new SigningThread(this.#link.module.path);
    return this.#thread?.usable === true ? this.#thread : undefined;
  }

  async #chunk(thread: SigningThread, entries: readonly Entry[]): Promise<void> {
    this.#busy = true;
    const chunk = new Chunk(thread, entries);
    try {
      await this.#pool.use((session) => this.#onThread(chunk, session));
    } catch (error) {
      const left = chunk.giveUp(error);
      if (left !== undefined) {
        this.#waiting.unshift(...left);
        this.#drop(thread, chunk);
      }
    } finally {
      this.#busy = false;
      this.#handOut();
    }
  }

  /** The session's lease lasts until the thread has answered, however long after everyone else has left. */
  async #onThread(chunk: Chunk<Entry>, session: PooledSession): Promise<void> {
    const { spki, keyAlgorithm: algorithm } = chunk.key;
    const { module } = this.#link;
    const key = await chunk.key.handleIn(session.epoch);
    await module.enter();
    try {
      // While the key was looked up, or the module restarted, the session may have been given up.
      if (session.retired || session.epoch !== this.#link.epoch) throw new Error("CKR_SESSION_CLOSED");
      const report = await chunk.sign({ session: session.handle, key, algorithm, spki });
      const { left, error } = chunk.settle(report);
      this.#waiting.unshift(...left);
      if (report.failure === "wrong") this.#link.lost(this.#link.epoch);
      if (error !== undefined) throw error;
      this.#judge(report);
    } catch (error) {
      if (isSessionLost(error)) this.#link.lost(session.epoch);
      throw error;
    } finally {
      module.leave();
    }
  }

  #judge({ done, fastestMs }: ChunkReport): void {
    if (done < JUDGED_BY) return;
    this.#quick = fastestMs <= SLOW_MS;
    if (!this.#quick) this.#tryAt = performance.now() + TRY_AGAIN * this.#limits.retryAfterMs;
  }

  /** The thread hangs in the token, or has ended. */
  #drop(thread: SigningThread, chunk: Chunk<Entry>): void {
    this.#thread = undefined;
    this.#quick = false;
    this.#tryAt = performance.now() + TRY_AGAIN * this.#limits.retryAfterMs;
    this.#hung++;
    void chunk.answer?.then(() => {
      this.#hung--;
      return thread.end();
    });
  }
}
