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

const PROVE_PROGRAM = join(import.meta.dirname, "../site/ceremony-prove.ts");
const proved = z.strictObject({
  hub: z.string(),
  name: z.string(),
  signed: z.array(z.strictObject({ place: z.string(), code: z.string() })),
});
export type ProvedCodes = z.output<typeof proved>;

/** Has the root sign a hub's codes, in a process as above. @throws as {@link runCeremony}; `input-invalid` */
export async function signHubCodes(file: string, options: { party: string; config?: string }): Promise<ProvedCodes> {
  const args = ["--config", configOf(options), "--codes", resolve(file)];
  return oneShot("the hub's codes", PROVE_PROGRAM, args, proved);
}

const RENEW_PROGRAM = join(import.meta.dirname, "../site/ceremony-renew.ts");
const renewed = z.strictObject({ child: z.string(), revision: z.number(), serial: z.string(), notAfter: z.string() });
export type RenewedChild = z.output<typeof renewed>;

/** Has the root sign a child's CA certificate anew, in a process as above. @throws as {@link runCeremony} */
export async function renewChild(
  child: string,
  options: { party: string; request: string; until?: string | undefined; config?: string },
): Promise<RenewedChild> {
  const args = ["--config", configOf(options), "--child", child, "--request", options.request];
  if (options.until !== undefined) args.push("--until", options.until);
  return oneShot("the renewal", RENEW_PROGRAM, args, renewed);
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
