import { readdirSync, readFileSync } from "node:fs";
import type { Stack } from "../../../apps/site/stack/stack.ts";
import type { Component } from "../../../apps/site/stack/component.ts";
import type { Random } from "./random.ts";

/** What a kill hits: a component of the stack, or a process that one of them started. */
export type Target = "site" | "issuing" | "postgres" | "backend" | "temporal" | "hub";

export interface Kill {
  readonly target: Target;
  /** batches on their way at that moment */
  readonly inFlight: number;
  /** until everything served again */
  readonly downMs: number;
}

/** How often each is in a hand that is dealt out before the next is shuffled; what doesn't run isn't hit. */
const WEIGHTS: Readonly<Record<Target, number>> = { site: 3, issuing: 2, postgres: 2, backend: 1, temporal: 2, hub: 2 };
const BACK_MS = 120_000;

/** Kills processes of one party's part of the stack with -9, and waits for the stack to bring them back. */
export class Killer {
  readonly kills: Kill[] = [];
  readonly #stack: Stack;
  readonly #party: string;
  readonly #random: Random;
  #hand: Target[] = [];

  constructor(stack: Stack, party: string, random: Random) {
    this.#stack = stack;
    this.#party = party;
    this.#random = random;
  }

  /** One kill, after a random pause of at most `withinMs`. Resolves when the whole stack serves again. */
  async kill(withinMs: number, inFlight: () => number): Promise<Kill> {
    await pause(this.#random.next() * withinMs);
    const target = this.#draw();
    const pid = this.#random.pick(this.#processes(target));
    const since = performance.now();
    const flying = inFlight();
    const component = this.#stack.components.find((one) => one.pid === pid);
    const restarts = component?.restarts;
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      // A backend may have ended by itself just now.
      if (target !== "backend" || (error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
    await until(() => !runs(pid), `process ${pid} (${target}) to be gone`);
    // The supervisor hears of the end a moment after it: until then the component looks as if it served.
    if (component) await until(() => component.restarts !== restarts, `${component.name} to be started again`);
    await until(() => this.#stack.components.every(({ ready }) => ready), `the stack after ${target}`);
    const kill = { target, inFlight: flying, downMs: Math.round(performance.now() - since) };
    this.kills.push(kill);
    return kill;
  }

  /** Each kind comes up in a short run too: one of each first, in a random order. */
  #draw(): Target {
    for (;;) {
      if (this.#hand.length === 0) {
        const kinds = Object.keys(WEIGHTS) as Target[];
        const more = kinds.flatMap((kind) => Array.from({ length: WEIGHTS[kind] - 1 }, () => kind));
        this.#hand = [...this.#random.shuffle(kinds), ...this.#random.shuffle(more)];
      }
      const target = this.#hand.shift()!;
      if (this.#processes(target).length > 0) return target;
    }
  }

  #processes(target: Target): number[] {
    const own = (kind: Component["kind"], name?: string): number[] =>
      this.#stack.components.flatMap((component) =>
        component.kind === kind && component.ready && (name === undefined || component.name === name)
          ? (component.pid ?? [])
          : [],
      );
    if (target === "site") return own("site", this.#party);
    if (target === "temporal") return own("temporal", `Temporal of ${this.#party}`);
    if (target === "hub" || target === "postgres") return own(target);
    if (target === "backend") return own("postgres").flatMap(childrenOf);
    return own("site", this.#party)
      .flatMap(childrenOf)
      .filter((pid) => commandOf(pid).includes("issuing"));
  }
}

export const pause = (ms: number): Promise<void> => new Promise((wake) => setTimeout(wake, ms));

async function until(done: () => boolean, what: string): Promise<void> {
  for (const deadline = Date.now() + BACK_MS; !done(); await pause(20)) {
    if (Date.now() > deadline) throw new Error(`waited ${BACK_MS / 1000} s for ${what}`);
  }
}

function statOf(pid: number): { state: string; parent: number } | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command's name may hold anything; what follows its last bracket is plain.
    const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { state: state!, parent: Number(parent) };
  } catch {
    return undefined;
  }
}

function runs(pid: number): boolean {
  const stat = statOf(pid);
  return stat !== undefined && stat.state !== "Z";
}

function childrenOf(parent: number): number[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => statOf(pid)?.parent === parent && runs(pid));
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return "";
  }
}
