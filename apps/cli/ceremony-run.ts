import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";
import { oneShot } from "./one-shot.ts";
import { stateFolder } from "./site-client.ts";

const outcome = z.strictObject({ rootSha256: z.string(), children: z.array(z.string()), hub: z.string().nullable() });
export interface CeremonyResult {
  readonly rootSha256: string;
  readonly children: string[];
  readonly hub: string | null;
}

const PROGRAM = join(import.meta.dirname, "../site/ceremony.ts");

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
  const args = ["--config", config, "--document", resolve(file)];
  return oneShot("the ceremony", PROGRAM, args, outcome);
}
