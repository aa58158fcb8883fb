import { execFile } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { which } from "../apps/site/stack/machine.ts";
import { CountersignError } from "../lib/domain/errors.ts";

/** A peer's program, built once from Go's module proxy. */
export interface Peer {
  readonly name: string;
  /** where the program will be */
  readonly program: string;
  /** the oldest Go that builds it */
  readonly go: string;
  /** what to do without it */
  readonly otherwise: string;
  /** what is said before it is built */
  readonly building: string;
  /** Go's arguments */
  readonly args: (program: string) => readonly string[];
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly timeoutMs: number;
}

/** @returns the program's path @throws CountersignError `component-missing` */
export async function buildPeer(peer: Peer, onStep: (what: string) => void): Promise<string> {
  const { name, program, args, cwd, env, timeoutMs } = peer;
  if (existsSync(program)) return program;
  const go = which("go");
  if (go === undefined) {
    throw new CountersignError(
      "component-missing",
      `${name} is built from Go's module proxy, and there is no go on PATH: install Go ${peer.go} or later, or ${peer.otherwise}`,
    );
  }
  onStep(peer.building);
  mkdirSync(dirname(program), { recursive: true });
  try {
    await promisify(execFile)(go, args(program), { cwd, env, timeout: timeoutMs, maxBuffer: 16 << 20 });
  } catch (cause) {
    const said = String((cause as { stderr?: string }).stderr ?? cause)
      .trim()
      .split("\n")
      .slice(-3)
      .join("; ");
    throw new CountersignError("component-missing", `${name} can't be built: ${said}`, { cause });
  }
  return program;
}
