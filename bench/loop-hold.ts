import { readFileSync } from "node:fs";
import { percentile } from "./statistics.ts";

/**
 * How long turns of this process's event loop took, apart from the time in which its thread was ready and had no core:
 * on a shared machine others take that, and no program can give it back. Computing and waiting for locks count.
 */
export class LoopHold {
  readonly #ms: number[] = [];
  #timer: NodeJS.Timeout | undefined;
  #last = { at: 0, unscheduled: 0 };

  start(): void {
    this.#last = { at: performance.now(), unscheduled: unscheduledMs() };
    this.#next();
  }

  /** ms of a turn, with the monitor's own interval of 1 ms */
  stop(): { p50: number; p99: number; max: number } {
    clearTimeout(this.#timer);
    return { p50: percentile(this.#ms, 0.5), p99: percentile(this.#ms, 0.99), max: percentile(this.#ms, 1) };
  }

  #next(): void {
    this.#timer = setTimeout(() => {
      const now = { at: performance.now(), unscheduled: unscheduledMs() };
      this.#ms.push(now.at - this.#last.at - (now.unscheduled - this.#last.unscheduled));
      this.#last = now;
      this.#next();
    }, 1);
  }
}

/** Time that the main thread has waited for a core, by Linux's scheduler; 0 where that isn't told. */
function unscheduledMs(): number {
  try {
    return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, "latin1").split(" ")[1]) / 1e6;
  } catch {
    return 0;
  }
}
