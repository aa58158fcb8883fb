import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { Option, type Command } from "commander";
import { parse } from "yaml";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { sha256Hex } from "../../../lib/domain/hash.ts";
import { parseCeremony } from "../../../lib/records/ceremony.ts";
import { parseHubProof } from "../../../lib/records/hub-proof.ts";
import { grantTerms, type GrantTerms } from "../../../lib/records/grant.ts";
import { draftCeremony, type DraftOptions } from "../ceremony-draft.ts";
import { renewChild, runCeremony, signHubCodes, signRootCrl } from "../ceremony-run.ts";
import { HubClient } from "../hub-client.ts";
import { wholeNumber } from "../lot-view.ts";
import { print, printJson, table } from "../output.ts";
import { SiteClient } from "../site-client.ts";
import { instant, settleRenewal } from "./party.ts";

const DEFAULT_SITE = "company-x";

interface DraftCommand {
  site: string;
  hubName?: string;
  hubCode?: string;
  grant: string[];
  key?: NonNullable<DraftOptions["key"]>;
  commonName?: string;
  notAfter?: string;
  json?: boolean;
}

/** `countersign ceremony ...`: the root key's only work, from one reviewable document. */
export function registerCeremony(program: Command): void {
  const ceremony = program
    .command("ceremony")
    .description("the root ceremony: one reviewed YAML document, one process");

  ceremony
    .command("draft")
    .description("write the document from what waits: the parties that joined, and the hub's code")
    .option("--site <id>", "the root's site", DEFAULT_SITE)
    .option("--hub-name <name>", "register the root at the hub under this name")
    .option("--hub-code <code>", "the hub's verification code; asked of the embedded hub when left out")
    .option("--grant <party=file>", "terms for one party, JSON or YAML; repeat", collect, [])
    .addOption(
      new Option("--key <algorithm>", "the root's key").choices(["ec-p256", "ec-p384", "rsa-3072", "rsa-4096"]),
    )
    .option("--common-name <cn>", "the root's CN")
    .option("--not-after <time>", "the root's end, such as 2050-01-01T00:00:00.000Z; without expiry when left out")
    .option("--json", "print the document as JSON, which `ceremony run` takes as well")
    .addHelpText("after", "\nExample:\n  countersign ceremony draft --hub-name company-x-root > ceremony.yaml\n")
    .action(draft);

  ceremony
    .command("show")
    .argument("<file>", "the document")
    .description("what the document will have signed, and its digest")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign ceremony show ceremony.yaml")
    .action(async (file: string, options: { json?: boolean }) => {
      const bytes = await readDocument(file);
      const document = parseCeremony(bytes);
      if (options.json) return printJson({ sha256: sha256Hex(bytes), document });
      const { root, crl, hub, delegations } = document;
      print(
        table([
          ["document", sha256Hex(bytes)],
          ["root", `CN=${root.commonName}, O=${root.organization}, ${root.key}, until ${root.notAfter}`],
          ["CRL", `${crl.months} months`],
          ["hub", hub ? `${hub.name}, code ${hub.code}` : "none"],
        ]),
      );
      for (const { to, csrSha256, grant } of delegations) {
        print(`\n${to}: request ${csrSha256}`);
        print(table(Object.entries(grant).map(([key, value]) => [`  ${key}`, String(value)])));
      }
    });

  ceremony
    .command("run")
    .argument("<file>", "the reviewed document")
    .description("open the root's token in a process of its own, sign what the document says, close it")
    .option("--site <id>", "the root's site", DEFAULT_SITE)
    .option("--config <file>", "the ceremony's configuration, when it isn't beside the site")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign ceremony run ceremony.yaml")
    .action(async (file: string, options: { site: string; config?: string; json?: boolean }) => {
      parseCeremony(await readDocument(file));
      const where = options.config === undefined ? {} : { config: options.config };
      const result = await runCeremony(file, { party: options.site, ...where });
      if (options.json) return printJson(result);
      print(`root ${result.rootSha256}`);
      print(`delegated to ${result.children.join(", ") || "nobody"}`);
      if (result.hub !== null) print(`signed the hub's verification certificate for ${result.hub}`);
    });

  ceremony
    .command("crl")
    .argument("[serial...]", "serial numbers that it lists, as reviewed; nothing else is signed")
    .description("open the root's token in a process of its own, sign the root's next CRL, close it")
    .option("--days <n>", "how long it holds", wholeNumber, 365)
    .option("--site <id>", "the root's site", DEFAULT_SITE)
    .option("--config <file>", "the ceremony's configuration, when it isn't beside the site")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nWhat `countersign revoke` has recorded for the root's children is listed, and has to be named here. One that is\n" +
        "fresh and lists the same is kept.\n\nExample:\n  $ countersign ceremony crl 3f1c5b7a9d02e4f6",
    )
    .action(async (serials: string[], options: { days: number; site: string; config?: string; json?: boolean }) => {
      const where = options.config === undefined ? {} : { config: options.config };
      const crl = await signRootCrl(serials, { party: options.site, days: options.days, ...where });
      if (options.json) return printJson(crl);
      print(`CRL ${crl.number} until ${crl.nextUpdate}: ${crl.revoked.join(", ") || "nothing is revoked"}`);
    });
  registerSittings(ceremony);
}

interface Sitting {
  site: string;
  config?: string;
  json?: boolean;
}

function sittingOptions(command: Command): Command {
  return command
    .option("--site <id>", "the root's site", DEFAULT_SITE)
    .option("--config <file>", "the ceremony's configuration, when it isn't beside the site")
    .option("--json", "machine-readable");
}

function whereOf({ site, config }: Sitting): { party: string; config?: string } {
  return { party: site, ...(config === undefined ? {} : { config }) };
}

/** What the root's token signs after its ceremony, each in a sitting of its own. */
function registerSittings(ceremony: Command): void {
  sittingOptions(ceremony.command("prove").argument("<file>", "a hub's codes, as `hub ca code --hub` writes them"))
    .description("open the root's token in a process of its own, sign the hub's codes, close it")
    .addHelpText(
      "after",
      "\nFor a hub that takes the certificate before it gives its code, as Azure does.\n\nExample:\n" +
        "  $ countersign hub ca code company-x-root --hub azure --site company-x > codes.json\n" +
        "  $ countersign ceremony prove codes.json\n" +
        "  $ countersign hub ca verify company-x-root --hub azure --site company-x",
    )
    .action(async (file: string, options: Sitting) => {
      parseHubProof(await readDocument(file));
      const done = await signHubCodes(file, whereOf(options));
      if (options.json) return printJson(done);
      for (const { place, code } of done.signed) print(`signed for ${place}: ${code}`);
      print(`then: countersign hub ca verify ${done.name} --hub ${done.hub} --site ${options.site}`);
    });

  sittingOptions(ceremony.command("renew").argument("<child>", "the party whose CA certificate the root has signed"))
    .description("open the root's token in a process of its own, sign a child's CA certificate anew, close it")
    .requiredOption("--request <sha256>", "digest of the child's request, as its own people read it")
    .option("--until <time>", "until when its grant lasts from now on, RFC 3339; as before unless given", instant)
    .addHelpText("after", "\nExample:\n  $ countersign ceremony renew factory-y --request SHA256")
    .action(async (child: string, options: Sitting & { request: string; until?: string }) => {
      const { request, until } = options;
      const { revision } = await renewChild(child, { ...whereOf(options), request, until });
      const client = await SiteClient.open(options.site);
      try {
        const done = await settleRenewal(client, child);
        if (options.json) return printJson(done);
        print(`${child} accepted revision ${revision} of its grant, with a new certificate`);
      } finally {
        client.close();
      }
    });
}

async function draft(options: DraftCommand): Promise<void> {
  const client = await SiteClient.open(options.site);
  try {
    const hub = await hubOf(options);
    const text = await draftCeremony(client, {
      grants: await grantsOf(options.grant),
      ...(hub === undefined ? {} : { hub }),
      ...(options.key === undefined ? {} : { key: options.key }),
      ...(options.commonName === undefined ? {} : { commonName: options.commonName }),
      ...(options.notAfter === undefined ? {} : { notAfter: options.notAfter }),
    });
    if (options.json) printJson(parseCeremony(Buffer.from(text)));
    else process.stdout.write(text);
  } finally {
    client.close();
  }
}

async function hubOf({ hubName, hubCode }: DraftCommand): Promise<DraftOptions["hub"]> {
  if (hubName === undefined) return undefined;
  if (hubCode !== undefined) return { name: hubName, code: hubCode };
  const hub = await HubClient.open();
  try {
    const { code } = await hub.offerCa(hubName);
    if (code === undefined) throw new CountersignError("already-exists", `the hub has registered ${hubName} already`);
    return { name: hubName, code };
  } finally {
    hub.close();
  }
}

async function grantsOf(given: readonly string[]): Promise<Record<string, GrantTerms>> {
  const grants: Record<string, GrantTerms> = {};
  for (const one of given) {
    const [party, file] = [one.slice(0, one.indexOf("=")), one.slice(one.indexOf("=") + 1)];
    if (!one.includes("=") || !existsSync(file)) {
      throw new CountersignError("usage", `--grant ${one}: write it as party=file`);
    }
    const terms = grantTerms.safeParse(parse(await readFile(file, "utf8"), { schema: "core", maxAliasCount: 0 }));
    if (!terms.success) {
      const issue = terms.error.issues[0];
      throw new CountersignError(
        "input-invalid",
        `${file}: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "invalid"}`,
      );
    }
    grants[party] = terms.data;
  }
  return grants;
}

async function readDocument(file: string): Promise<Uint8Array> {
  try {
    return await readFile(file);
  } catch (cause) {
    throw new CountersignError("input-invalid", `there is no readable ceremony document ${file}`, { cause });
  }
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}
