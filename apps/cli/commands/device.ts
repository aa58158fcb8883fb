import { readFile, writeFile } from "node:fs/promises";
import { type Command, InvalidArgumentError } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { Layout } from "../../../lib/firmware/index.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { keyId } from "../../../lib/pki/spki.ts";
import { makeSoftwareKey, openSoftwareKey, softwareCsr, type SoftwareKey } from "../../device/software-key.ts";
import { openTray } from "../../device/tray.ts";
import { type ConnectOutcome, failureOf, type MakeOutcome, runInTray } from "../../device/tray-process.ts";
import { extractFile } from "../../site/firmware.ts";
import { addLayoutOptions, layoutOf } from "../layout-options.ts";
import { print, printJson } from "../output.ts";
import { registerDevicePfx } from "./device-pfx.ts";

const MAX_IMAGE_BYTES = 256 << 20;

/** `countersign device ...`: what a device does itself, with its key in a token of its own. */
export function registerDevice(program: Command): void {
  const device = program.command("device").description("a device's own side: key and CSR on the chip, first connect");

  device
    .command("keygen")
    .description("make a device's token and its key in it; the key never leaves the token")
    .option("--token-dir <dir>", "folder of device tokens, made if it isn't there")
    .option("--software-key <file>", SOFTWARE_KEY)
    .requiredOption("--id <id>", "device ID")
    .option("--module <path>", "PKCS#11 module for a new folder (default: SoftHSM 2)")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  countersign device keygen --token-dir tokens --id dev-0001\n")
    .action(async (options: KeyPlace & { id: string; module?: string; json?: boolean }) => {
      if (inSoftware(options)) {
        const keyId = keyIdOf(makeSoftwareKey(options.softwareKey));
        if (options.json) return printJson({ deviceId: options.id, keyId, created: true, testOnly: true });
        return print(`${options.id}: test-only key ${keyId} made in ${options.softwareKey}`);
      }
      const module = options.module === undefined ? {} : { module: options.module };
      const tray = openTray(options.tokenDir, { create: true, ...module });
      const { keyId, created } = await onChip(options.tokenDir, options.id, true, tray.module);
      if (options.json) return printJson({ deviceId: options.id, keyId, created });
      print(`${options.id}: key ${keyId} ${created ? "made" : "was there already"}`);
    });

  device
    .command("csr")
    .description("make a certification request, signed by the device's key in its token")
    .option("--token-dir <dir>", "folder of device tokens")
    .option("--software-key <file>", SOFTWARE_KEY)
    .requiredOption("--id <id>", "device ID")
    .option("--out <file>", "write the PEM there instead of printing it")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  countersign device csr --token-dir tokens --id dev-0001 --out dev-0001.csr.pem\n",
    )
    .action(async (options: KeyPlace & { id: string; out?: string; json?: boolean }) => {
      const { csr, keyId } = inSoftware(options)
        ? csrOf(openSoftwareKey(options.softwareKey), options.id)
        : await onChip(options.tokenDir, options.id, false);
      if (options.out !== undefined) await writeFile(options.out, csr);
      if (options.json) printJson({ deviceId: options.id, keyId, csr });
      else if (options.out === undefined) print(csr.trimEnd());
    });

  registerDevicePfx(device);
  addLayoutOptions(device.command("connect"))
    .description("connect to the hub with the public Azure IoT device SDK and send telemetry")
    .requiredOption("--id <id>", "device ID")
    .option("--chain <file>", "the device's chain as PEM, leaf first")
    .option("--image <file>", "or its firmware image, from which the chain is read")
    .option("--format <format>", "the image's format")
    .requiredOption("--token-dir <dir>", "folder of device tokens")
    .requiredOption("--hub <host:port>", "the hub's MQTT address")
    .requiredOption("--ca <file>", "PEM that the hub's server certificate is checked against")
    .option("--messages <n>", "how many telemetry messages", messageCount, 5)
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  countersign device connect --id dev-0001 --image dev-0001.bin --format esp-secure-cert \\\n" +
        "    --token-dir tokens --hub localhost:8883 --ca .countersign/company-x/infra/ca.pem\n",
    )
    .action(async (options: ConnectOptions) => {
      const result = await connect(options);
      if (options.json) return printJson(result);
      print(`${result.deviceId}: connected in ${result.connectMs} ms, ${result.acknowledged} messages acknowledged`);
    });
}

const SOFTWARE_KEY = "instead: a test-only key in a file, for tutorials; never for production";

type KeyPlace = { tokenDir: string; softwareKey?: never } | { softwareKey: string; tokenDir?: never };

/** @throws CountersignError `usage` unless exactly one place is named */
function inSoftware(options: KeyPlace): options is KeyPlace & { softwareKey: string } {
  if ((options.tokenDir === undefined) === (options.softwareKey === undefined)) {
    throw new CountersignError("usage", "name the key's place by either --token-dir DIR or --software-key FILE");
  }
  return options.softwareKey !== undefined;
}

function csrOf(key: SoftwareKey, deviceId: string): { csr: string; keyId: string } {
  return { csr: softwareCsr(key, deviceId), keyId: keyIdOf(key) };
}

const keyIdOf = ({ spki }: SoftwareKey): string => keyId(spki);

interface ConnectOptions extends Layout {
  id: string;
  chain?: string;
  image?: string;
  format?: string;
  tokenDir: string;
  hub: string;
  ca: string;
  messages: number;
  json?: boolean;
}

async function connect(options: ConnectOptions) {
  const chain = await chainOf(options);
  const ca = await readText(options.ca);
  const tray = openTray(options.tokenDir);
  const outcomes: ConnectOutcome[] = [];
  const job = {
    kind: "connect",
    tray: tray.dir,
    hub: options.hub,
    ca,
    messages: options.messages,
    timeoutMs: 60_000,
    concurrency: 1,
    devices: [{ deviceId: options.id, chain }],
  } as const;
  await runInTray(tray, { ...job, devices: [...job.devices] }, (outcome: ConnectOutcome) => outcomes.push(outcome));
  return only(outcomes);
}

/** The chain from a PEM file, or read out of a firmware image. */
async function chainOf(options: ConnectOptions): Promise<string> {
  if ((options.chain === undefined) === (options.image === undefined)) {
    throw new CountersignError("usage", "give the chain by either --chain FILE or --image FILE --format F");
  }
  if (options.chain !== undefined) return readText(options.chain);
  if (options.format === undefined) throw new CountersignError("usage", "name the image's format with --format F");
  const { chain } = await extractFile({
    format: options.format,
    layout: layoutOf(options),
    image: options.image ?? "",
  });
  return chain.map((der) => pemEncode("CERTIFICATE", der)).join("");
}

async function onChip(dir: string, deviceId: string, make: boolean, module?: string) {
  const tray = openTray(dir, module === undefined ? {} : { create: true, module });
  const outcomes: MakeOutcome[] = [];
  const job = { kind: "make", tray: tray.dir, devices: [deviceId], makeKeys: make } as const;
  await runInTray(tray, { ...job, devices: [...job.devices] }, (outcome: MakeOutcome) => outcomes.push(outcome));
  return only(outcomes);
}

/** The one device's outcome; its failure is thrown. */
function only<T extends MakeOutcome | ConnectOutcome>(outcomes: readonly T[]): Exclude<T, { error: unknown }> {
  const outcome = outcomes[0];
  if (outcome === undefined) throw new CountersignError("internal", "the device's process said nothing");
  if ("error" in outcome) throw failureOf(outcome.error);
  return outcome as Exclude<T, { error: unknown }>;
}

function messageCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 0 || count > 10_000) throw new InvalidArgumentError("0 to 10000");
  return count;
}

async function readText(file: string): Promise<string> {
  return Buffer.from(await readBytes(file)).toString("utf8");
}

async function readBytes(file: string): Promise<Uint8Array> {
  try {
    const bytes = await readFile(file);
    if (bytes.length > MAX_IMAGE_BYTES) throw new CountersignError("input-too-large", `${file} is above 256 MiB`);
    return bytes;
  } catch (cause) {
    if (cause instanceof CountersignError) throw cause;
    throw new CountersignError("input-invalid", `can't read ${file}`, { cause });
  }
}
