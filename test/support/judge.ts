import { execFile, execFileSync, spawnSync } from "node:child_process";
import { tool } from "./index.ts";

/** The system's OpenSSL as an outside judge. */

export interface Verdict {
  readonly ok: boolean;
  /** What it printed, both streams */
  readonly text: string;
}

export function openssl(args: readonly string[], input: Uint8Array | string = ""): Verdict {
  const run = spawnSync(tool("openssl"), args, { input, encoding: "utf8", timeout: 30_000 });
  if (run.error !== undefined) throw run.error;
  return { ok: run.status === 0, text: `${run.stdout}${run.stderr}` };
}

/** The standard output as octets; throws when openssl refuses. */
export function opensslBytes(args: readonly string[], input: Uint8Array | string = ""): Uint8Array {
  return new Uint8Array(
    execFileSync(tool("openssl"), args, { input, stdio: ["pipe", "pipe", "pipe"], timeout: 30_000 }),
  );
}

/** Many runs, a few at a time. */
export async function opensslBatch(runs: readonly (readonly string[])[], lanes = 4): Promise<Verdict[]> {
  const path = tool("openssl");
  const verdicts: Verdict[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let i = next++; i < runs.length; i = next++) {
      verdicts[i] = await new Promise<Verdict>((resolve) => {
        execFile(path, [...runs[i]!], { timeout: 30_000 }, (error, stdout, stderr) => {
          resolve({ ok: error === null, text: `${stdout}${stderr}` });
        });
      });
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return verdicts;
}
