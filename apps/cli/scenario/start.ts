import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { printWhere, startStack, untilStopped } from "../commands/stack.ts";
import { note, paint, print } from "../output.ts";
import { prepareOut } from "../out/evidence.ts";
import { stateFolder } from "../site-client.ts";
import { playCustody, type CustodyPlan } from "./custody.ts";
import { readCsrFile } from "./csr-file.ts";

export interface StartOptions {
  once?: boolean;
  devices: number;
  images?: number;
  csrs?: string;
  out?: string;
}

const DEFAULT_IMAGES = 100;

/** `npm start`: the stack, the custody chain once, then either goes on serving or stops everything. */
export async function runStart(options: StartOptions): Promise<void> {
  const plan = await planOf(options);
  const ownHome = options.once === true && process.env["COUNTERSIGN_HOME"] === undefined;
  const home = ownHome ? await mkdtemp(join(tmpdir(), "countersign-")) : stateFolder();
  const interrupted = new Interruption();
  try {
    const stack = await startStack(home);
    interrupted.whenStopped(() => stack.stop());
    try {
      const result = await interrupted.race(playCustody(stack.info, home, plan));
      note(
        `${paint("bold", `${result.certified} devices`)} certified (${result.devicesPerSecond} a second), ` +
          `${result.connected} connected, ${result.telemetry} messages` +
          (result.refused > 0 ? `, ${paint("yellow", `${result.refused} refused`)}` : ""),
      );
      if (plan.out !== undefined) print(`evidence: ${plan.out}`);
      if (options.once !== true) {
        printWhere(stack.info);
        print(`console: ${stack.info.sites[0]!.url}/ (Ctrl-C stops everything)`);
        await untilStopped(stack);
      }
    } finally {
      await stack.stop();
    }
  } finally {
    interrupted.end();
    if (ownHome) await rm(home, { recursive: true, force: true });
  }
}

async function planOf(options: StartOptions): Promise<CustodyPlan> {
  const csrs = options.csrs === undefined ? undefined : await readCsrFile(options.csrs);
  const devices = csrs?.length ?? options.devices;
  if (devices < 1) throw new CountersignError("usage", "there is nothing to do: --devices is at least 1");
  const out = options.out === undefined ? undefined : resolve(options.out);
  if (out !== undefined) await prepareOut(out);
  return {
    devices,
    images: csrs ? 0 : Math.min(devices, options.images ?? DEFAULT_IMAGES),
    ...(csrs ? { csrs } : {}),
    ...(out === undefined ? {} : { out }),
  };
}

/** Ctrl-C in the middle of the chain: what runs is left where it is, and the stack is stopped in order. */
class Interruption {
  #reject: ((reason: Error) => void) | undefined;
  #stop: (() => Promise<void>) | undefined;
  readonly #handler = (): void => {
    note("stopping ...");
    this.#reject?.(new CountersignError("timeout", "interrupted: the custody chain was left unfinished"));
    void this.#stop?.();
  };

  constructor() {
    process.on("SIGINT", this.#handler);
    process.on("SIGTERM", this.#handler);
  }

  whenStopped(stop: () => Promise<void>): void {
    this.#stop = stop;
  }

  async race<T>(work: Promise<T>): Promise<T> {
    const interrupted = new Promise<never>((_resolve, reject) => (this.#reject = reject));
    // What is cut off may still fail, of the stack's end; that failure is no news.
    work.catch(() => undefined);
    try {
      return await Promise.race([work, interrupted]);
    } finally {
      this.end();
    }
  }

  end(): void {
    process.off("SIGINT", this.#handler);
    process.off("SIGTERM", this.#handler);
  }
}
