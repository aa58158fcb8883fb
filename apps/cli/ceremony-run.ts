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
  const config = configOf(options);
  if (!existsSync(file)) throw new CountersignError("input-invalid", `there is no ceremony document ${file}`);
  const args = ["--config", config, "--document", resolve(file)];
  return oneShot("the ceremony", PROGRAM, args, outcome);
}

function configOf({ party, home, config }: { party: string; home?: string; config?: string }): string {
  const file = config ?? join(home ?? stateFolder(), party, "root", "ceremony.json");
  if (existsSync(file)) return file;
  throw new CountersignError("component-missing", `${file} is missing: ceremonies are held at the root's own site`);
}

const signedCrl = z.strictObject({
  number: z.number(),
  thisUpdate: z.string(),
  nextUpdate: z.string(),
  revoked: z.array(z.string()),
});
export type SignedRootCrl = z.output<typeof signedCrl>;

const CRL_PROGRAM = join(import.meta.dirname, "../site/ceremony-crl.ts");

/**
 * Has the root sign its next CRL, in a process as above, if it lists exactly these serial numbers.
 * @throws as {@link runCeremony}; `state-conflict` when others are recorded
 */
export async function signRootCrl(
  revoked: readonly string[],
  options: { party: string; days: number; config?: string },
): Promise<SignedRootCrl> {
  const args = ["--config", configOf(options), "--days", String(options.days)];
  for (const serial of revoked) args.push("--revoked", serial);
  return oneShot("the root's CRL", CRL_PROGRAM, args, signedCrl);
}
