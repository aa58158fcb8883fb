import { spawn } from "node:child_process";
import { z } from "zod";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";

const FORWARDED = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "NODE_OPTIONS"];
const refusal = z.strictObject({ error: z.strictObject({ code: z.string(), message: z.string() }) });

/**
 * Runs a program of a site in a process of its own, which alone holds that site's token, and gives what it says on its
 * last line. The process is gone when this resolves.
 * @param what for messages: `the ceremony`
 * @throws CountersignError the program's own refusal; `internal` when it ends without an answer
 */
export async function oneShot<T>(
  what: string,
  program: string,
  args: readonly string[],
  answer: z.ZodType<T>,
): Promise<T> {
  const env: NodeJS.ProcessEnv = { UV_THREADPOOL_SIZE: "4" };
  for (const name of FORWARDED) if (process.env[name] !== undefined) env[name] = process.env[name];
  const child = spawn(process.execPath, [program, ...args], {
    env,
    // The channel ties its life to ours.
    stdio: ["ignore", "pipe", "pipe", "ipc"],
  });
  let out = "";
  let log = "";
  child.stdout!.setEncoding("utf8").on("data", (part: string) => (out += part));
  child.stderr!.setEncoding("utf8").on("data", (part: string) => (log = `${log}${part}`.slice(-4000)));
  await new Promise<void>((done, fail) => {
    child.once("error", fail);
    child.once("close", () => done());
  });
  const last = out.trim().split("\n").at(-1) ?? "";
  let outcome: T | z.output<typeof refusal>;
  try {
    outcome = z.union([refusal, answer]).parse(JSON.parse(last));
  } catch (cause) {
    const said = log.trim().split("\n").slice(-3).join(" ");
    throw new CountersignError("internal", `${what}'s process ended without an answer: ${said}`, { cause });
  }
  const refused = refusal.safeParse(outcome);
  if (!refused.success) return outcome as T;
  const { code, message } = refused.data.error;
  throw new CountersignError(Object.hasOwn(ERROR_KINDS, code) ? (code as ErrorCode) : "internal", message);
}
