import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { HubCaShown, HubDeviceShown } from "../hub-answers.ts";
import { HubClient } from "../hub-client.ts";
import { print, printJson, table } from "../output.ts";
import { registerHubGroups } from "./hub-groups.ts";
import { registerHubPassports } from "./hub-passports.ts";
import { registerHubRevocation } from "./hub-revocation.ts";
import {
  changeElsewhere,
  codesElsewhere,
  elsewhereOptions,
  listCasElsewhere,
  registerElsewhere,
  showElsewhere,
  type Elsewhere,
} from "./hub-elsewhere.ts";
import { SiteClient } from "../site-client.ts";
import { registerHubStatus } from "./hub-status.ts";
import { registerHubEnrollment } from "./hub-enrollment.ts";
import { registerHubTraffic } from "./hub-traffic.ts";

interface Json {
  json?: boolean;
}

/** `countersign hub ...`: registering CAs with the hub and looking at what connected. */
export function registerHub(program: Command): void {
  const hub = program.command("hub").description("the hub devices connect to: registered CAs and devices");
  const ca = hub.command("ca").description("register a CA: get a code, have the CA sign it, hand both in");

  elsewhereOptions(ca.command("code").argument("<name>", "name the CA gets on the hub"))
    .description("get the verification code for a CA that isn't registered yet (its certificate may not exist yet)")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nWith --hub: uploads the site's offline root, and writes its codes for `ceremony prove`.\n\nExamples:\n" +
        "  countersign hub ca code company-x\n" +
        "  countersign hub ca code company-x-root --hub azure --site company-x > codes.json\n",
    )
    .action((name: string, options: Elsewhere) => {
      if (options.hub !== undefined) return codesElsewhere(name, options);
      return withHub(async (client) => {
        const offered = await client.offerCa(name);
        if (options.json) return printJson(offered);
        print(offered.code ?? "");
      });
    });

  ca.command("add")
    .argument("<name>", "name the CA gets on the hub")
    .description("add a CA in state unverified, with its certificate if there is one, and show its verification code")
    .option("--certificate <pem>", "file with the CA's certificate")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  countersign hub ca add company-x --certificate root.pem\n")
    .action((name: string, options: Json & { certificate?: string }) =>
      withHub(async (client) => {
        const pem = options.certificate === undefined ? undefined : await readPem(options.certificate);
        const offered = await client.offerCa(name, pem);
        if (options.json) return printJson(offered);
        print(`${offered.name} is ${offered.state}; have its key sign a certificate with the CN`);
        print(`  ${offered.code ?? ""}`);
        print(
          `until ${offered.codeExpiresAt ?? ""}, then: countersign hub ca verify ${offered.name} --ca PEM --certificate PEM`,
        );
      }),
    );

  ca.command("verify")
    .argument("<name>", "the CA's name on the hub")
    .description("prove possession of the CA's key: hand in its certificate and the verification certificate")
    .option("--ca <pem>", "file with the CA's certificate")
    .option("--certificate <pem>", "file with the certificate that carries the code, signed by the CA")
    .option("--site <id>", "without these files: whose ceremony signed the code", "company-x")
    .option("--hub <name>", "a hub of the site's configuration, whose codes `ceremony prove` has signed")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign hub ca verify company-x-root --site company-x" +
        "\n  $ countersign hub ca verify company-x --ca root.pem --certificate verification.pem" +
        "\n  $ countersign hub ca verify company-x-root --hub azure --site company-x",
    )
    .action((name: string, options: Json & VerifyOptions & { hub?: string }) => {
      if (options.hub !== undefined) return changeElsewhere(options, { kind: "prove-ca", subject: name });
      return withHub(async (client) => {
        const verified = await verifyCa(client, name, options);
        if (options.json) return printJson(verified);
        print(`${verified.name} is verified: ${verified.sha256 ?? ""}`);
      });
    });

  elsewhereOptions(ca.command("register").argument("<name>", "name the CA gets on the hub"))
    .description("register a site's own CA: uploaded, the hub's codes signed by its HSM key, verified; renewals follow")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign hub ca register factory-y --site factory-y --hub azure" +
        "\n  $ countersign hub ca register factory-y --site factory-y --hub azure --dry-run",
    )
    .action((name: string, options: Elsewhere) => registerElsewhere(name, options));

  elsewhereOptions(ca.command("list"), false)
    .description("the CAs the hub knows")
    .addHelpText("after", "\nExample:\n  $ countersign hub ca list")
    .option("--json", "machine-readable")
    .action((options: Elsewhere) => {
      if (options.hub !== undefined) return listCasElsewhere(options);
      return withHub(async (client) => {
        const cas = await client.cas();
        if (options.json) return printJson(cas);
        print(table([["NAME", "STATE", "ENROLMENT", "SHA-256"], ...cas.map(caRow)]));
      });
    });

  registerHubRevocation(hub, ca);
  registerHubGroups(hub);
  registerHubStatus(hub);
  registerHubPassports(hub);
  const device = hub.command("device").description("the devices the hub knows");
  elsewhereOptions(device.command("create").argument("<id>", "device ID"))
    .description("make a device known before its first connect (a first connect does so by itself)")
    .addHelpText("after", "\nExample:\n  $ countersign hub device create dev-1-0001")
    .option("--json", "machine-readable")
    .option("--auth-method <method>", "as in Azure's command line; x509_ca is the only one", "x509_ca")
    .action((id: string, options: Elsewhere & { authMethod: string }) => {
      if (options.authMethod !== "x509_ca") {
        throw new CountersignError(
          "usage",
          "devices are known by certificates of a registered CA: --auth-method x509_ca",
        );
      }
      if (options.hub !== undefined) return changeElsewhere(options, { kind: "create-device", subject: id });
      return withHub(async (client) => shown(await client.createDevice(id), options));
    });
  device
    .command("list")
    .description("all devices")
    .addHelpText("after", "\nExample:\n  $ countersign hub device list")
    .option("--json", "machine-readable")
    .action((options: Json) =>
      withHub(async (client) => {
        const devices: HubDeviceShown[] = [];
        for await (const one of client.devices()) devices.push(one);
        if (options.json) return printJson(devices);
        print(table([["DEVICE", "STATE", "CA", "FIRST CONNECT"], ...devices.map(deviceRow)]));
      }),
    );
  elsewhereOptions(device.command("show").argument("<id>", "device ID"), false)
    .description("one device: state, chain, first connect, telemetry")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  countersign hub device show dev-1-0001\n")
    .action((id: string, options: Elsewhere) =>
      options.hub === undefined
        ? withHub(async (client) => shown(await client.device(id), options))
        : showElsewhere(`devices/${encodeURIComponent(id)}`, options),
    );
  for (const verb of ["disable", "enable"] as const) {
    elsewhereOptions(device.command(verb).argument("<ids...>", "device IDs: many at once are one change at the hub"))
      .description(verb === "disable" ? "end its connection and let it in no more" : "let it in again")
      .addHelpText(
        "after",
        `\nExamples:\n  $ countersign hub device ${verb} dev-1-0001\n  $ xargs countersign hub device ${verb} < ids.txt`,
      )
      .option("--json", "machine-readable")
      .action((ids: string[], options: Elsewhere) => {
        const [id, ...more] = ids as [string, ...string[]];
        if (more.length > 0) return setMany(ids, verb, options);
        return options.hub === undefined
          ? withHub(async (client) => shown(await client.setDevice(id, verb), options))
          : changeElsewhere(options, { kind: `${verb}-device`, subject: id });
      });
  }
  elsewhereOptions(device.command("remove").argument("<id>", "device ID"))
    .description("forget a device (it may come back by connecting; to keep it out, disable it)")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub device remove dev-1-0001")
    .action((id: string, options: Elsewhere) => {
      if (options.hub !== undefined) return changeElsewhere(options, { kind: "remove-device", subject: id });
      return withHub(async (client) => {
        await client.removeDevice(id);
        if (options.json) printJson({ deviceId: id, removed: true });
      });
    });
  registerHubTraffic(device);
  registerHubEnrollment(hub);
}

interface VerifyOptions {
  ca?: string;
  certificate?: string;
  site: string;
}

/** Hands in the two files, or has the site whose ceremony signed the code hand in its own. */
async function verifyCa(
  client: HubClient,
  name: string,
  { ca, certificate, site }: VerifyOptions,
): Promise<HubCaShown> {
  if (ca !== undefined && certificate !== undefined) {
    return client.verifyCa(name, await readPem(ca), await readPem(certificate));
  }
  if (ca !== undefined || certificate !== undefined) {
    throw new CountersignError("usage", "give both --ca and --certificate, or neither and --site");
  }
  const root = await SiteClient.open(site);
  try {
    await root.post("/api/v1/hub-registrations", { name });
    const { state, error } = await root.poll<{ state: string; error?: { message: string } }>(
      `/api/v1/hub-registrations/${encodeURIComponent(name)}`,
      (view) => view.state === "registered" || view.state === "refused",
      { what: `the hub's answer about ${name}` },
    );
    if (state === "refused") throw new CountersignError("hub-ca-not-verified", error?.message ?? "the hub refused it");
  } finally {
    root.close();
  }
  const found = (await client.cas()).find((one) => one.name === name);
  if (found === undefined) throw new CountersignError("not-found", `the hub knows no CA ${name}`);
  return found;
}

export async function withHub<T>(work: (client: HubClient) => Promise<T>): Promise<void> {
  const client = await HubClient.open();
  try {
    await work(client);
  } finally {
    client.close();
  }
}

export async function readPem(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    throw new CountersignError("input-invalid", `can't read ${file}`, { cause });
  }
}

function caRow(ca: HubCaShown): string[] {
  return [ca.name, ca.disabledAt === null ? ca.state : "disabled", ca.enrolment, ca.sha256 ?? "-"];
}

function deviceRow(device: HubDeviceShown): string[] {
  return [device.deviceId, device.state, device.caName ?? "-", device.firstConnectedAt ?? "-"];
}

async function setMany(ids: readonly string[], verb: "enable" | "disable", options: Elsewhere): Promise<void> {
  if (options.hub !== undefined) throw new CountersignError("usage", "one device at a time at another hub");
  await withHub(async (client) => {
    const answer = await client.setDevices(ids, verb);
    if (answer.unknown.length > 0) process.exitCode = 1;
    if (options.json) return printJson(answer);
    print(`${answer.set} ${answer.state}`);
    for (const id of answer.unknown) print(`not here: ${id}`);
  });
}

function shown(device: HubDeviceShown, options: Json): void {
  if (options.json) return printJson(device);
  print(`device           ${device.deviceId}`);
  print(`state            ${device.state}`);
  print(`registered CA    ${device.caName ?? "-"}`);
  print(`first connect    ${device.firstConnectedAt ?? "-"}`);
  print(`last connect     ${device.lastConnectedAt ?? "-"}`);
  if (device.telemetry !== undefined) print(`telemetry        ${device.telemetry}`);
  for (const link of device.chain ?? []) print(`  ${link.commonName ?? "-"}  ${link.sha256}`);
}
