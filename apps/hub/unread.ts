import type { Writable } from "node:stream";

type Output = Pick<Writable, "writableLength" | "destroy" | "once" | "on">;

/**
 * Ends connections whose peers don't read: those in which something has waited to be sent all the time for `limitMs`, or
 * a quarter longer. Asking on doesn't help a peer, and what it asks for isn't kept for it.
 */
export class UnreadOutput {
  readonly #since = new Map<Output, number>();
  readonly #limitMs: number;
  readonly #timer: NodeJS.Timeout;

  constructor(limitMs: number) {
    this.#limitMs = limitMs;
    this.#timer = setInterval(() => this.#look(performance.now()), limitMs / 4);
    this.#timer.unref();
  }

  watch(output: Output): void {
    const read = (): void => void this.#since.set(output, performance.now());
    read();
    output.on("drain", read);
    output.once("close", () => this.#since.delete(output));
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(now: number): void {
    for (const [output, since] of this.#since) {
      if (output.writableLength === 0) this.#since.set(output, now);
      else if (now - since >= this.#limitMs) output.destroy();
    }
  }
}
