import { CountersignError } from "../lib/domain/errors.ts";
import type { HsmLimits } from "./limits.ts";
import { PooledSession, pin, unpin } from "./pooled-session.ts";
import type { PoolState, SessionSource } from "./session-source.ts";
import { addSessions, giveSpareThread, takeSpareThread } from "./threads.ts";
import { type Waiter, WaitingLine } from "./waiting-line.ts";

interface Seat {
  session: PooledSession | undefined;
}

interface Lease {
  settled: boolean;
  abandoned: boolean;
  session: PooledSession | undefined;
}

/**
 * A fixed number of sessions, leased first come, first served. A session under which anything failed is closed and its
 * seat opened anew by the next lease, since a failed operation may still be active in it. A lease that takes too long is
 * given up: its session is never used again, stays pinned until the native call returns, and its seat goes on with
 * another one as far as the process has threads to spare, else when the call returns.
 */
export class SessionPool {
  readonly size: number;
  readonly #source: SessionSource;
  readonly #limits: HsmLimits;
  readonly #idle: Seat[] = [];
  readonly #line: WaitingLine<Seat>;
  #leased = 0;
  #abandoned = 0;
  #closed: Promise<void> | undefined;
  #drained: (() => void) | undefined;

  private constructor(source: SessionSource, size: number, limits: HsmLimits) {
    this.#source = source;
    this.size = size;
    this.#limits = limits;
    this.#line = new WaitingLine(source.label, limits);
  }

  /** Opens all sessions at once: a token that can't carry that many says so at the start. */
  static async open(source: SessionSource, size: number, limits: HsmLimits): Promise<SessionPool> {
    if (!Number.isInteger(size) || size < 1 || size > 1024) {
      throw new CountersignError("input-invalid", `a session pool has 1 to 1024 sessions, not ${size}`);
    }
    const pool = new SessionPool(source, size, limits);
    addSessions(size);
    try {
      for (let i = 0; i < size; i++) {
        pool.#idle.push({ session: new PooledSession(await source.open(), source.epoch) });
      }
    } catch (error) {
      await pool.close();
      throw error;
    }
    return pool;
  }

  get state(): PoolState {
    return { size: this.size, inUse: this.#leased, abandoned: this.#abandoned, waiting: this.#line.length };
  }

  /**
   * Runs `work` with a session of its own. Its result must not be a view of the session's buffers.
   * @throws CountersignError `hsm-unavailable` when no session comes free or the work takes too long; what it throws
   */
  async use<T>(work: (session: PooledSession) => Promise<T>): Promise<T> {
    const seat = await this.#lease();
    return new Promise<T>((resolve, reject) => {
      const lease: Lease = { settled: false, abandoned: false, session: undefined };
      const giveUp = (): void => {
        if (lease.settled) return;
        lease.abandoned = true;
        if (lease.session !== undefined) lease.session.retired = true;
        reject(this.#tooSlow());
        this.#abandon(seat, run);
      };
      // A loop that was held up itself runs its timers first: what came back in time is taken before anything is given up.
      const timer = setTimeout(() => setImmediate(giveUp), this.#limits.callTimeoutMs);
      const run = this.#run(seat, lease, work);
      const done = (settle: () => void): void => {
        if (lease.abandoned) return;
        lease.settled = true;
        clearTimeout(timer);
        this.#release(seat);
        settle();
      };
      run.then(
        (value) => done(() => resolve(value)),
        (error: unknown) => done(() => reject(error instanceof Error ? error : new Error(String(error)))),
      );
    });
  }

  /** Settles when no native call is under way any more, however long after the one who asked has left. */
  async #run<T>(seat: Seat, lease: Lease, work: (session: PooledSession) => Promise<T>): Promise<T> {
    const session = await this.#sessionOf(seat);
    seat.session = undefined;
    lease.session = session;
    pin(session);
    try {
      if (lease.abandoned) throw this.#tooSlow();
      const result = await work(session);
      if (lease.abandoned) throw this.#tooSlow();
      seat.session = session;
      return result;
    } catch (error) {
      session.retired = true;
      this.#source.close(session.handle, session.epoch);
      throw error;
    } finally {
      unpin(session);
    }
  }

  async #sessionOf(seat: Seat): Promise<PooledSession> {
    const { session } = seat;
    if (session?.epoch === this.#source.epoch) return session;
    seat.session = undefined;
    if (session !== undefined) this.#source.close(session.handle, session.epoch);
    const handle = await this.#source.open();
    return new PooledSession(handle, this.#source.epoch);
  }

  #abandon(seat: Seat, run: Promise<unknown>): void {
    this.#abandoned++;
    const spare = takeSpareThread();
    if (spare) this.#release({ session: undefined });
    else this.#leased--;
    const returned = (): void => {
      this.#abandoned--;
      seat.session = undefined;
      if (spare) giveSpareThread();
      else this.#seatFree(seat);
    };
    run.then(returned, returned);
    if (this.#leased === 0) this.#drained?.();
  }

  /** Everyone who waits is told at once. */
  refuseWaiting(why: CountersignError): void {
    this.#line.refuseAll(why);
  }

  /** Refuses new leases, waits for those at work, closes every session. */
  close(): Promise<void> {
    this.#closed ??= this.#shut();
    return this.#closed;
  }

  async #shut(): Promise<void> {
    this.#line.refuseAll(closedError());
    if (this.#leased > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    for (const { session } of this.#idle.splice(0)) {
      if (session !== undefined) this.#source.close(session.handle, session.epoch);
    }
    addSessions(-this.size);
  }

  async #lease(): Promise<Seat> {
    if (this.#closed !== undefined) throw closedError();
    const seat = this.#idle.pop();
    if (seat === undefined) return this.#line.join();
    this.#leased++;
    return seat;
  }

  #release(seat: Seat): void {
    const next = this.#line.next();
    if (next !== undefined) {
      next.resolve(seat); // handed over, still counted as leased
      return;
    }
    this.#leased--;
    this.#idle.push(seat);
    if (this.#leased === 0) this.#drained?.();
  }

  /** A seat comes back that nobody had leased. */
  #seatFree(seat: Seat): void {
    if (this.#closed !== undefined) return;
    const next: Waiter<Seat> | undefined = this.#line.next();
    if (next === undefined) {
      this.#idle.push(seat);
    } else {
      this.#leased++;
      next.resolve(seat);
    }
  }

  #tooSlow(): CountersignError {
    return new CountersignError(
      "hsm-unavailable",
      `token "${this.#source.label}" didn't answer within ${this.#limits.callTimeoutMs} ms: its session is given up; ` +
        "check the HSM's load and the way to it",
      { details: { token: this.#source.label, timeout: true } },
    );
  }
}

function closedError(): CountersignError {
  return new CountersignError("hsm-unavailable", "the token was closed: open it again before asking for signatures", {
    details: { refused: "closed" },
  });
}
