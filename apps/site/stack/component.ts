import type { Child } from "./child.ts";

export type ComponentKind = "postgres" | "temporal" | "site" | "hub";

export interface ComponentOptions {
  readonly name: string;
  readonly kind: ComponentKind;
  /**
   * Starts the process and waits until it serves. `onChild` is called as soon as there is a process, so that it can be
   * ended while it starts. A start that fails leaves no process behind.
   */
  readonly start: (onChild: (child: Child) => void) => Promise<unknown>;
}

const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 2_000;

/** One process of the stack, and the way to start it: at first, and again after it ended although nobody stopped it. */
export class Component {
  readonly name: string;
  readonly kind: ComponentKind;
  readonly #start: ComponentOptions["start"];
  #child: Child | undefined;
  #ready = false;
  #restarts = 0;
  #stopping = false;
  #watching: Promise<void> = Promise.resolve();

  constructor({ name, kind, start }: ComponentOptions) {
    this.name = name;
    this.kind = kind;
    this.#start = start;
  }

  /** Of the process that runs now; undefined between two, and for a server that isn't ours. */
  get pid(): number | undefined {
    return this.#child?.running === true ? this.#child.pid : undefined;
  }

  /** It serves. */
  get ready(): boolean {
    return this.#ready && this.#child?.running !== false;
  }

  /** Times that it was started again. */
  get restarts(): number {
    return this.#restarts;
  }

  async start(): Promise<void> {
    this.#ready = false;
    await this.#start((child) => {
      this.#child = child;
      // Stopped before it was there.
      if (this.#stopping) void child.stop();
    });
    this.#ready = true;
  }

  /** @param restart false: `onEnd` hears of the first unasked end, and nothing is started again */
  watch(restart: boolean, onEnd: (name: string, logFile: string) => void): void {
    this.#watching = this.#watch(restart, onEnd);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#child?.stop();
    await this.#watching;
  }

  async #watch(restart: boolean, onEnd: (name: string, logFile: string) => void): Promise<void> {
    while (this.#child !== undefined) {
      await this.#child.exited;
      if (this.#stopping) return;
      onEnd(this.name, this.#child.logFile);
      if (!restart) return;
      await this.#again();
    }
  }

  /** What it needs may be down as well: it is tried until it serves. */
  async #again(): Promise<void> {
    for (let pause = FIRST_PAUSE_MS; !this.#stopping; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      this.#restarts++;
      try {
        return await this.start();
      } catch {
        // Its own log says why.
        if (!this.#stopping) await new Promise((resolve) => setTimeout(resolve, pause));
      }
    }
  }
}
