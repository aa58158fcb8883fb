import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { verifyPassport } from "../../../lib/ledger/passport.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { readNeeded, readPolicy, readRoot } from "../evidence/folder.ts";
import { readOpenings } from "../evidence/openings.ts";
import { paint, print, printJson } from "../output.ts";

export function registerVerify(program: Command): void {
  program
    .command("verify")
    .description("verify a device's passport, offline: needs the root, the policy and nothing else")
    .argument("<passport>", "passport.json")
    .requiredOption("--root <pem>", "the trusted root")
    .requiredOption("--policy <file>", "policy.json: the root's digest and the logs' keys")
    .option("--opening <file>", "values that the device's holder shows beside it (`countersign openings`)")
    .option("--json", "print the answer as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign verify out/devices/dev-1-0001/passport.json --root out/root.pem --policy out/policy.json",
    )
    .action(async (file: string, options: { root: string; policy: string; opening?: string; json?: boolean }) => {
      const root = await readRoot(options.root);
      const policy = await readPolicy(options.policy);
      const bytes = await readNeeded(file, "the passport");
      const shown = options.opening === undefined ? [] : (await readOpenings(options.opening)).openings;
      const verdict = await verifyPassport(bytes, root, policy, webCryptoVerify, shown);
      if (options.json) printJson(verdict);
      if (!verdict.ok) {
        const at = verdict.at === undefined ? "" : ` (entry ${verdict.at.index} of ${verdict.at.origin})`;
        throw new CountersignError("passport-invalid", `${file}: ${verdict.message}${at}`);
      }
      if (options.json) return;
      print(`${paint("green", "verified")} ${verdict.deviceId}: ${verdict.acts} acts in ${verdict.logs} ledgers`);
      for (const { domain, value } of verdict.openings) print(`  ${domain}: ${JSON.stringify(value)}`);
      for (const { party, after, before } of verdict.ledgers) {
        if (before === undefined) continue;
        print(`  ${party}: the newest was logged ${after === undefined ? "" : `after ${after} and `}before ${before}`);
      }
    });
}
