import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { PROJECT_ROOT } from "./index.ts";

const PYTHON = join(PROJECT_ROOT, ".cache", "python", "bin", "python");

type Event = Record<string, unknown> & { event: string };

/** Azure's Python SDK, unmodified, in a process of its own (test/support/judges/azure_device.py). */
export class PythonDevice {
  readonly #process: ChildProcess;
  readonly #events: Event[] = [];
  readonly #waiting = new Set<() => void>();
  readonly #ended: Promise<number | null>;
  #exited = false;
  #errors = "";

  /** @param options files, not contents: `cert`, `key`, `ca` */
  constructor(options: Record<string, string>) {
    this.#process = spawn(PYTHON, [join(import.meta.dirname, "judges", "azure_device.py"), JSON.stringify(options)], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    createInterface({ input: this.#process.stdout! }).on("line", (line) => {
      this.#events.push(JSON.parse(line) as Event);
      for (const wake of this.#waiting) wake();
    });
    this.#process.stderr!.on("data", (part: Buffer) => (this.#errors += part.toString()));
    this.#ended = new Promise((resolve) =>
      this.#process.once("exit", (code) => {
        this.#exited = true;
        for (const wake of this.#waiting) wake();
        resolve(code);
      }),
    );
  }

  /** The next event of this kind that nobody has taken yet. */
  async event(kind: string): Promise<Event> {
    for (;;) {
      const at = this.#events.findIndex(({ event }) => event === kind);
      if (at !== -1) return this.#events.splice(at, 1)[0]!;
      if (this.#exited) throw new Error(`the Python client ended before "${kind}": ${this.#errors.slice(-3000)}`);
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          this.#waiting.delete(wake);
          resolve();
        };
        this.#waiting.add(wake);
      });
    }
  }

  async stop(): Promise<number | null> {
    this.#process.stdin!.end();
    return this.#ended;
  }
}
