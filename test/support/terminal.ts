import { spawn } from "node:child_process";
import { join } from "node:path";
import { PROJECT_ROOT } from "./index.ts";

const IN_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";

export interface TerminalRun {
  readonly code: number | null;
  /** what the terminal showed, and when each line was there: milliseconds after the first */
  readonly lines: readonly { readonly text: string; readonly ms: number }[];
}

/** Runs the command with a terminal of its own, and nobody at the keyboard. */
export function countersignInTerminal(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<TerminalRun> {
  const command = [process.execPath, join(PROJECT_ROOT, "apps/cli/main.ts"), ...args];
  const child = spawn("python3", ["-c", IN_A_TERMINAL, ...command], {
    env: { ...process.env, TERM: "xterm", ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines: { text: string; ms: number }[] = [];
  let rest = "";
  let first: number | undefined;
  child.stdout.setEncoding("utf8").on("data", (part: string) => {
    const now = performance.now();
    const whole = (rest + part).split(/\r?\n/);
    rest = whole.pop() ?? "";
    first ??= now;
    for (const text of whole) lines.push({ text, ms: now - first });
  });
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, lines }));
  });
}
