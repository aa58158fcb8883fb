import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { HubCaShown } from "../hub-answers.ts";
import { print, printJson, table } from "../output.ts";
import { changeElsewhere, elsewhereOptions, type Elsewhere } from "./hub-elsewhere.ts";
import { readPem, withHub } from "./hub.ts";

interface Json {
  json?: boolean;
}

/** `countersign hub ca disable|enable|remove|show|enrolment|unlogged`, `hub block ...`, `hub crl ...`: who is kept out. */
export function registerHubRevocation(hub: Command, ca: Command): void {
  ca.command("show")
    .argument("<name>", "the CA's name on the hub")
    .description("one CA: state, enrolment, digest; its code while it is unverified")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub ca show company-x")
    .action((name: string, options: Json) => withHub(async (client) => shownCa(await client.ca(name), options)));
  for (const verb of ["disable", "enable"] as const) {
    ca.command(verb)
      .argument("<name>", "the CA's name on the hub")
      .description(verb === "disable" ? "end its devices' connections and let none in" : "let its devices in again")
      .option("--json", "machine-readable")
      .addHelpText("after", `\nExample:\n  $ countersign hub ca ${verb} company-x`)
      .action((name: string, options: Json) =>
        withHub(async (client) => shownCa(await client.setCa(name, verb), options)),
      );
  }
  ca.command("enrolment")
    .argument("<name>", "the CA's name on the hub")
    .argument("<policy>", "first-connect: a device is created when it first connects; registered: it must be before")
    .description("say how this CA's devices come to be known")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub ca enrolment company-x registered")
    .action((name: string, policy: string, options: Json) =>
      withHub(async (client) => shownCa(await client.setEnrolment(name, policy), options)),
    );
  ca.command("unlogged")
    .argument("<name>", "the CA's name on the hub")
    .argument("<policy>", "allow, alarm or refuse: what becomes of a device whose certificate no ledger holds")
    .description("say what it means that no followed ledger holds a certificate (`monitor` in hub.json)")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub ca unlogged company-x refuse")
    .action((name: string, policy: string, options: Json) =>
      withHub(async (client) => shownCa(await client.setUnlogged(name, policy), options)),
    );
  elsewhereOptions(ca.command("remove").argument("<name>", "the CA's name on the hub"))
    .description("forget a CA that has no devices here")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub ca remove company-x")
    .action((name: string, options: Elsewhere) => {
      if (options.hub !== undefined) return changeElsewhere(options, { kind: "remove-ca", subject: name });
      return withHub(async (client) => {
        await client.removeCa(name);
        if (options.json) printJson({ name, removed: true });
      });
    });
  registerBlocks(hub.command("block").description("certificates and keys that are kept out, wherever in a chain"));
  registerCrls(hub.command("crl").description("revocation lists the hub follows"));
}

function registerBlocks(block: Command): void {
  block
    .command("add")
    .argument("[pem]", "file with the certificate, a device's or any CA's")
    .option("--sha256 <hex>", "instead of a file: the digest of the certificate (DER) or of its key (SPKI)")
    .option("--kind <kind>", "certificate: only this one; key: every one for its key (the default for a CA)")
    .requiredOption("--reason <text>", "why; it goes into the log with every refusal")
    .description("end the connections of every device with it in its chain, and let none in")
    .option("--json", "machine-readable")
    .addHelpText("after", '\nExample:\n  $ countersign hub block add technician-z.pem --reason "key lost"')
    .action((pem: string | undefined, options: Json & { sha256?: string; kind?: string; reason: string }) =>
      withHub(async (client) => {
        const { sha256, kind } = options;
        if ((pem === undefined) === (sha256 === undefined)) {
          throw new CountersignError("usage", "name a certificate's file, or a digest by --sha256");
        }
        const what =
          pem === undefined
            ? { sha256: sha256 ?? "", kind: kind ?? "certificate" }
            : { certificate: await readPem(pem), ...(kind === undefined ? {} : { kind }) };
        const done = await client.block(what, options.reason);
        if (options.json) return printJson(done);
        print(`blocked the ${done.kind} ${done.sha256}${done.name === null ? "" : ` of ${done.name}`}`);
      }),
    );
  block
    .command("list")
    .description("what is blocked, and whether by an operator or by the site that has revoked it")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub block list")
    .action((options: Json) =>
      withHub(async (client) => {
        const blocks = await client.blocks();
        if (options.json) return printJson(blocks);
        const rows = blocks.map((one) => {
          const source = one.source === "operator" ? "operator" : "site";
          return [one.kind, one.sha256, one.name ?? "-", source, one.blockedBy, one.reason];
        });
        print(table([["KIND", "SHA-256", "NAME", "SOURCE", "BY", "REASON"], ...rows]));
      }),
    );
  block
    .command("remove")
    .argument("<sha256>", "the digest, as `list` shows it")
    .description("let it in again, whether an operator or a site has blocked it")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub block remove 3f1c...")
    .action((sha256: string, options: Json) =>
      withHub(async (client) => {
        await client.unblock(sha256);
        if (options.json) printJson({ sha256, removed: true });
      }),
    );
}

function registerCrls(crl: Command): void {
  crl
    .command("add")
    .argument("<name>", "name the list gets on the hub")
    .requiredOption("--issuer <pem>", "file with the CA whose list it is")
    .option("--url <url>", "where to fetch it, such as a site's /crl/<ca>.crl")
    .description("follow a CA's revocation list")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign hub crl add factory-y --issuer out/parties/factory-y/ca.pem --url http://127.0.0.1:8180/crl/0123456789abcdef.crl",
    )
    .action((name: string, options: Json & { issuer: string; url?: string }) =>
      withHub(async (client) => {
        const { issuer, url } = options;
        const followed = { name, issuer: await readPem(issuer), ...(url === undefined ? {} : { url }) };
        const done = await client.followCrl(followed);
        if (options.json) printJson(done);
      }),
    );
  crl
    .command("push")
    .argument("<name>", "the list's name on the hub")
    .argument("<file>", "the list, DER or PEM")
    .description("hand in a list at once; an older one than is there is left aside")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub crl push factory-y factory-y.crl")
    .action((name: string, file: string, options: Json) =>
      withHub(async (client) => {
        const bytes = await readFile(file).catch((cause: unknown) => {
          throw new CountersignError("input-invalid", `can't read ${file}`, { cause });
        });
        const text = bytes[0] === 0x30 ? bytes.toString("base64") : bytes.toString("latin1");
        const done = await client.pushCrl(name, text);
        if (options.json) return printJson(done);
        print(
          done.taken ? `taken: of ${done.thisUpdate ?? ""}` : `left aside: the hub has one of ${done.thisUpdate ?? ""}`,
        );
      }),
    );
  crl
    .command("list")
    .description("the lists that are followed")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub crl list")
    .action((options: Json) =>
      withHub(async (client) => {
        const crls = await client.crls();
        if (options.json) return printJson(crls);
        const rows = crls.map((one) => [
          one.name,
          one.thisUpdate ?? "-",
          one.nextUpdate ?? "-",
          one.url ?? "-",
          one.fault ?? "-",
        ]);
        print(table([["NAME", "OF", "UNTIL", "URL", "FAULT"], ...rows]));
      }),
    );
  crl
    .command("remove")
    .argument("<name>", "the list's name on the hub")
    .description("follow it no more: what it revoked is let in again")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub crl remove factory-y")
    .action((name: string, options: Json) =>
      withHub(async (client) => {
        await client.unfollowCrl(name);
        if (options.json) printJson({ name, removed: true });
      }),
    );
}

function shownCa(ca: HubCaShown, options: Json): void {
  if (options.json) return printJson(ca);
  print(`CA           ${ca.name}`);
  print(`state        ${ca.disabledAt === null ? ca.state : `disabled since ${ca.disabledAt}`}`);
  print(`enrolment    ${ca.enrolment}`);
  print(`unlogged     ${ca.unlogged}`);
  print(`SHA-256      ${ca.sha256 ?? "-"}`);
  if (ca.code !== undefined) print(`code         ${ca.code} until ${ca.codeExpiresAt ?? ""}`);
}
