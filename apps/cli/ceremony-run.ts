import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { stateFolder } from "./site-client.ts";

const outcomeLine = z.union([
  z.strictObject({ rootSha256: z.string(), children: z.array(z.string()), hub: z.string().nullable() }),
  z.strictObject({ error: z.strictObject({ code: z.string(), message: z.string() }) }),
]);
export interface CeremonyResult {
  readonly rootSha256: string;
  readonly children: string[];
  readonly hub: string | null;
}

const PROGRAM = join(import.meta.dirname, "../site/ceremony.ts");
const FORWARDED = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "NODE_OPTIONS"];

/**
 * Holds a ceremony in a process of its own, which alone gets the root token; it is gone when this resolves.
 * @throws CountersignError the ceremony's own refusal, or `component-missing` without a ceremony configuration
 */
export async function runCeremony(
  file: string,
  options: { party: string; home?: string; config?: string },
): Promise<CeremonyResult> {
  const config = options.config ?? join(options.home ?? stateFolder(), options.party, "root", "ceremony.json");
  if (!existsSync(config)) {
    throw new CountersignError("component-missing", `${config} is missing: ceremonies are held at the root's own site`);
  }
  if (!existsSync(file)) throw new CountersignError("input-invalid", `there is no ceremony document ${file}`);
  const env: NodeJS.ProcessEnv = { UV_THREADPOOL_SIZE: "4" };
  for (const name of FORWARDED) if (process.env[name] !== undefined) env[name] = process.env[name];

  const child = spawn(process.execPath, [PROGRAM, "--config", config, "--document", resolve(file)], {
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
  let outcome: z.output<typeof outcomeLine>;
  try {
    outcome = outcomeLine.parse(JSON.parse(last));
  } catch (cause) {
    const said = log.trim().split("\n").slice(-3).join(" ");
    throw new CountersignError("internal", `the ceremony's process ended without an answer: ${said}`, { cause });
  }
  if (!("error" in outcome)) return outcome;
  const { code, message } = outcome.error;
  throw new CountersignError(Object.hasOwn(ERROR_KINDS, code) ? (code as ErrorCode) : "internal", message);
}
