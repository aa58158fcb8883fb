import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { withFreshPorts } from "./child.ts";
import type { Component } from "./component.ts";
import { PARTIES, type ExampleParty } from "./example.ts";
import { launch, Started } from "./launch.ts";
import { isAlive, stackFilePath, type StackFile } from "./stack-file.ts";

export interface StackOptions {
  /** The state folder; everything the stack keeps is below it. */
  readonly home: string;
  /** The example's parties unless given; a parent before its children, the hub's operator among them. */
  readonly parties?: readonly ExampleParty[];
  /** Start a component again that has ended although nobody stopped it. */
  readonly restart?: boolean;
  /** For progress: what is being started, and when it is there. */
  readonly onStep?: (what: string) => void;
  /** Gives the start up: what was started is stopped, and the signal's reason is thrown. */
  readonly stopped?: AbortSignal;
  /** A component has ended although nobody stopped it. */
  readonly onFailure?: (name: string, logFile: string) => void;
}

/**
 * The embedded stack: one Postgres (a database and role a party), a Temporal dev server a party, a process a site, and
 * the hub; all on loopback, all children of this process, none outliving it.
 */
export class Stack {
  /** As it was started; process ids are those of the first processes. */
  readonly info: StackFile;
  readonly components: readonly Component[];
  readonly #home: string;
  readonly #started: Started;
  #stopping: Promise<void> | undefined;

  private constructor(info: StackFile, home: string, started: Started) {
    this.info = info;
    this.#home = home;
    this.#started = started;
    this.components = started.components;
  }

  /** @throws CountersignError `state-conflict` when it runs already, `component-missing`, `component-unreachable` */
  static async start(options: StackOptions): Promise<Stack> {
    const home = resolve(options.home);
    refuseSecond(home);
    mkdirSync(home, { recursive: true, mode: 0o700 });
    const stopped = options.stopped ?? new AbortController().signal;
    // Again with the ports that are free by then; what the others have made stays.
    return await withFreshPorts(async () => await Stack.#startOnce(options, home, new Started(stopped)));
  }

  static async #startOnce(options: StackOptions, home: string, started: Started): Promise<Stack> {
    try {
      const info = await launch(home, options.parties ?? PARTIES, started, options.onStep ?? (() => undefined));
      const stack = new Stack(info, home, started);
      for (const component of started.components) {
        component.watch(options.restart === true, (name, logFile) => {
          if (!stack.#stopping) options.onFailure?.(name, logFile);
        });
      }
      const partial = `${stackFilePath(home)}.part`;
      writeFileSync(partial, `${JSON.stringify(info, null, 2)}\n`, { mode: 0o600 });
      renameSync(partial, stackFilePath(home));
      return stack;
    } catch (error) {
      await started.stop();
      throw error;
    }
  }

  /** Hub and sites first, then what they stand on. Safe to call twice. */
  stop(): Promise<void> {
    this.#stopping ??= this.#started.stop().then(() => rmSync(stackFilePath(this.#home), { force: true }));
    return this.#stopping;
  }
}

function refuseSecond(home: string): void {
  let pid: number;
  try {
    pid = z.object({ pid: z.int() }).parse(JSON.parse(readFileSync(stackFilePath(home), "utf8"))).pid;
  } catch {
    return;
  }
  if (!isAlive(pid)) return;
  throw new CountersignError(
    "state-conflict",
    `a stack already runs from ${home} (process ${pid}): stop it with \`countersign down\``,
  );
}
