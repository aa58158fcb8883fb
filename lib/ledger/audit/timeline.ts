/** How many acts of each party in each stretch of time, by the times that the acts claim. */
export interface TimelineReport {
  /** where the first stretch begins, RFC 3339 UTC */
  readonly from: string;
  /** of each stretch, in milliseconds */
  readonly step: number;
  /** acts in each stretch, by party */
  readonly acts: Readonly<Record<string, readonly number[]>>;
}

const STRETCHES = 96;
const SHORTEST_MS = 1000;

/** Counts in bounded memory: the stretches become twice as long whenever they become too many. */
export class Timeline {
  #step = SHORTEST_MS;
  #first = Infinity;
  #last = -Infinity;
  readonly #counts = new Map<string, Map<number, number>>();

  /** @param time milliseconds since 1970 */
  add(party: string, time: number): void {
    if (!Number.isFinite(time)) return;
    let at = Math.floor(time / this.#step);
    this.#first = Math.min(this.#first, at);
    this.#last = Math.max(this.#last, at);
    while (this.#last - this.#first >= STRETCHES) {
      this.#widen();
      at = Math.floor(time / this.#step);
    }
    let counts = this.#counts.get(party);
    if (counts === undefined) this.#counts.set(party, (counts = new Map<number, number>()));
    counts.set(at, (counts.get(at) ?? 0) + 1);
  }

  #widen(): void {
    this.#step *= 2;
    this.#first = Math.floor(this.#first / 2);
    this.#last = Math.floor(this.#last / 2);
    for (const [party, counts] of this.#counts) {
      const wider = new Map<number, number>();
      for (const [at, count] of counts) wider.set(Math.floor(at / 2), (wider.get(Math.floor(at / 2)) ?? 0) + count);
      this.#counts.set(party, wider);
    }
  }

  /** Undefined when there was no act. */
  report(): TimelineReport | undefined {
    if (this.#last < this.#first) return undefined;
    const acts: Record<string, number[]> = {};
    for (const [party, counts] of this.#counts) {
      acts[party] = Array.from({ length: this.#last - this.#first + 1 }, (_, i) => counts.get(this.#first + i) ?? 0);
    }
    return { from: new Date(this.#first * this.#step).toISOString(), step: this.#step, acts };
  }
}
