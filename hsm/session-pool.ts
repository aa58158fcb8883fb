import { CountersignError } from "../lib/domain/errors.ts";
import type { Handle } from "./cryptoki.ts";

const INPUT_BYTES = 4096;
/** The longest signature any key here gives is RSA-4096's 512 bytes. */
const OUTPUT_BYTES = 1024;

/**
 * One PKCS#11 session with its own buffers. pkcs11js hands raw pointers to another thread and doesn't hold the buffers
 * (its issue 121): one that the collector moves or frees meanwhile makes the token sign something else. Hence buffers
 * that live as long as the session, one operation a session at a time, and `inFlight` below.
 */
export class PooledSession {
  readonly handle: Handle;
  readonly output: Buffer = Buffer.alloc(OUTPUT_BYTES);
  #input: Buffer = Buffer.alloc(INPUT_BYTES);

  constructor(handle: Handle) {
    this.handle = handle;
  }

  /** Copies `bytes` into this session's input buffer and returns the view of it to pass to the token. */
  load(bytes: Uint8Array): Buffer {
    if (bytes.length > this.#input.length) this.#input = Buffer.alloc(bytes.length);
    this.#input.set(bytes);
    return this.#input.subarray(0, bytes.length);
  }
}

/** Sessions at work, reachable from the module itself: no collector takes a session while the token writes into it. */
const inFlight = new Set<PooledSession>();

export interface SessionSource {
  /** Opens a logged-in session. */
  open(): Promise<Handle>;
  /** Closes it; must not throw for one that is gone already. */
  close(handle: Handle): void;
}

interface Seat {
  session: PooledSession | undefined;
}

/**
 * A fixed number of sessions, leased first come, first served. A session under which anything failed is closed and its
 * seat opened anew by the next lease, since a failed operation may still be active in it.
 */
export class SessionPool {
  readonly size: number;
  readonly #source: SessionSource;
  readonly #idle: Seat[] = [];
  readonly #waiting: { resolve: (seat: Seat) => void; reject: (error: Error) => void }[] = [];
  #leased = 0;
  #closed: Promise<void> | undefined;
  #drained: (() => void) | undefined;

  private constructor(source: SessionSource, size: number) {
    this.#source = source;
    this.size = size;
  }

  /** Opens all sessions at once: a token that can't carry that many says so at the start. */
  static async open(source: SessionSource, size: number): Promise<SessionPool> {
    if (!Number.isInteger(size) || size < 1 || size > 1024) {
      throw new CountersignError("input-invalid", `a session pool has 1 to 1024 sessions, not ${size}`);
    }
    const pool = new SessionPool(source, size);
    try {
      for (let i = 0; i < size; i++) pool.#idle.push({ session: new PooledSession(await source.open()) });
    } catch (error) {
      await pool.close();
      throw error;
    }
    return pool;
  }

  /** Runs `work` with a session of its own. Its result must not be a view of the session's buffers. */
  async use<T>(work: (session: PooledSession) => Promise<T>): Promise<T> {
    const seat = await this.#lease();
    try {
      seat.session ??= new PooledSession(await this.#source.open());
      const session = seat.session;
      inFlight.add(session);
      try {
        return await work(session);
      } catch (error) {
        seat.session = undefined;
        this.#source.close(session.handle);
        throw error;
      } finally {
        inFlight.delete(session);
      }
    } finally {
      this.#release(seat);
    }
  }

  /** Has every idle seat opened anew: a token that lost one session has lost most likely all. */
  renewIdle(): void {
    for (const seat of this.#idle) {
      if (seat.session !== undefined) this.#source.close(seat.session.handle);
      seat.session = undefined;
    }
  }

  /** Refuses new leases, waits for those at work, closes every session. */
  close(): Promise<void> {
    this.#closed ??= this.#shut();
    return this.#closed;
  }

  async #shut(): Promise<void> {
    for (const waiter of this.#waiting.splice(0)) waiter.reject(closedError());
    if (this.#leased > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    for (const seat of this.#idle.splice(0)) {
      if (seat.session !== undefined) this.#source.close(seat.session.handle);
    }
  }

  async #lease(): Promise<Seat> {
    if (this.#closed !== undefined) throw closedError();
    const seat = this.#idle.pop();
    if (seat !== undefined) {
      this.#leased++;
      return seat;
    }
    // A released seat is handed over, still counted as leased.
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  #release(seat: Seat): void {
    const next = this.#waiting.shift();
    if (next !== undefined) {
      next.resolve(seat);
      return;
    }
    this.#leased--;
    this.#idle.push(seat);
    if (this.#leased === 0) this.#drained?.();
  }
}

function closedError(): CountersignError {
  return new CountersignError("hsm-unavailable", "the token was closed: open it again before asking for signatures");
}
