import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { MAX_PASSPORT_BYTES } from "../../../lib/records/passport.ts";
import { readNeeded, readPolicy, readRoot } from "../evidence/folder.ts";
import type { HubPassportShown, HubTrustShown } from "../hub-answers.ts";
import { print, printJson } from "../output.ts";
import { withHub } from "./hub.ts";

interface Json {
  json?: boolean;
}

/** `countersign hub passports ...`: what groups on the hub know of lots and installations. */
export function registerHubPassports(hub: Command): void {
  const passports = hub
    .command("passports")
    .description("custody facts for groups, from devices' passports that the hub verifies");
  passports
    .command("trust")
    .description("name what passports are verified against; without files, show it")
    .option("--root <pem>", "the trusted root")
    .option("--policy <file>", "policy.json: the root's digest and the logs' keys")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign hub passports trust --root out/root.pem --policy out/policy.json",
    )
    .action((options: Json & { root?: string; policy?: string }) =>
      withHub(async (client) => {
        if ((options.root === undefined) !== (options.policy === undefined)) {
          throw new CountersignError("usage", "give both --root and --policy, or neither");
        }
        if (options.root === undefined || options.policy === undefined) {
          return shownTrust(await client.passportTrust(), options);
        }
        const [root, policy] = await Promise.all([readRoot(options.root), readPolicy(options.policy)]);
        shownTrust(await client.trustPassports(pemEncode("CERTIFICATE", root.der), policy), options);
      }),
    );
  passports
    .command("add")
    .argument("<file...>", "passport.json files; they take the place of earlier ones")
    .description("have passports verified and their facts kept; stops at the first that doesn't hold")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub passports add out/devices/*/passport.json")
    .action((files: string[], options: Json) =>
      withHub(async (client) => {
        const kept: HubPassportShown[] = [];
        for (const file of files) {
          const bytes = await readNeeded(file, "the passport");
          if (bytes.length > MAX_PASSPORT_BYTES) throw new CountersignError("passport-invalid", `${file} is too large`);
          const one = await client.addPassport(Buffer.from(bytes).toString("utf8")).catch((cause: unknown) => {
            if (!(cause instanceof CountersignError)) throw cause;
            throw new CountersignError(cause.code, `${file}: ${cause.message}`, { cause });
          });
          kept.push(one);
          if (options.json !== true) print(line(one));
        }
        if (options.json) printJson(kept);
      }),
    );
  passports
    .command("show")
    .argument("<device>", "device ID")
    .description("what the hub knows of a device by its passport")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub passports show dev-1-0001")
    .action((id: string, options: Json) =>
      withHub(async (client) => {
        const one = await client.passport(id);
        if (options.json) return printJson(one);
        print(line(one));
      }),
    );
  passports
    .command("remove")
    .argument("<device>", "device ID")
    .description("forget what a passport said; the device stays")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub passports remove dev-1-0001")
    .action((id: string, options: Json) =>
      withHub(async (client) => {
        await client.removePassport(id);
        if (options.json) printJson({ deviceId: id, removed: true });
      }),
    );
}

function shownTrust(trust: HubTrustShown, options: Json): void {
  if (options.json) return printJson(trust);
  print(`root ${trust.rootSha256}, policy ${trust.policySha256}: ledgers of ${trust.logs.join(", ")}`);
}

function line({ deviceId, facts }: HubPassportShown): string {
  const { device: _same, ...rest } = facts;
  return `${deviceId}: ${Object.entries(rest)
    .map(([name, fact]) => `${name} ${String(fact)}`)
    .join("; ")}`;
}
