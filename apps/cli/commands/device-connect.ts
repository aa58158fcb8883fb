import { readFile } from "node:fs/promises";
import { type Command, InvalidArgumentError } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { Layout } from "../../../lib/firmware/index.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { openTray } from "../../device/tray.ts";
import { type ConnectOutcome, only, runInTray, type StoredReading } from "../../device/tray-process.ts";
import { extractFile } from "../../site/firmware.ts";
import { addLayoutOptions, layoutOf } from "../layout-options.ts";
import { print, printJson } from "../output.ts";

const MAX_IMAGE_BYTES = 256 << 20;

/** `countersign device connect`: one device, with its key in its token, or a simulated fleet. */
export function registerDeviceConnect(device: Command): void {
  addLayoutOptions(device.command("connect"))
    .description("connect to the hub with the public Azure IoT device SDK and send telemetry; or simulate a fleet")
    .option("--id <id>", "device ID")
    .option("--chain <file>", "the device's chain as PEM, leaf first")
    .option("--image <file>", "or its firmware image, from which the chain is read")
    .option("--format <format>", "the image's format")
    .option("--token-dir <dir>", "folder of device tokens")
    .option("--hub <host:port>", "the hub's MQTT address; with --fleet the running stack's unless given")
    .option("--ca <file>", "PEM that the hub's server certificate is checked against; with --fleet as --hub")
    .option("--messages <n>", "how many telemetry messages, of each device", messageCount, 5)
    .option("--interval <ms>", "between two messages of a device; default all at once, with --fleet 1000", interval)
    .option("--fleet <n>", "instead of one device: so many simulated ones, with test-only keys in software", fleetSize)
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  countersign device connect --id dev-0001 --image dev-0001.bin --format esp-secure-cert \\\n" +
        "    --token-dir tokens --hub localhost:8883 --ca .countersign/company-x/infra/ca.pem --messages 60 --interval 1000\n" +
        "  countersign device connect --fleet 500\n",
    )
    .action(async (options: ConnectOptions) => {
      if (options.fleet !== undefined) return simulateFleet(options, options.fleet);
      const result = await connect(options);
      if (options.json) return printJson(result);
      print(`${result.deviceId}: connected in ${result.connectMs} ms, ${result.acknowledged} messages acknowledged`);
    });
}

async function simulateFleet(options: ConnectOptions, fleet: number): Promise<void> {
  const own = ["id", "chain", "image", "format", "tokenDir"] as const;
  const given = own.find((name) => options[name] !== undefined);
  if (given !== undefined) {
    const option = given.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new CountersignError("usage", `--${option} is one device's: simulated ones make their own keys and chains`);
  }
  const { connectSimulated } = await import("./device-fleet.ts");
  await connectSimulated({ ...options, interval: options.interval ?? 1_000, fleet });
}

interface ConnectOptions extends Layout {
  id?: string;
  chain?: string;
  image?: string;
  format?: string;
  tokenDir?: string;
  hub?: string;
  ca?: string;
  messages: number;
  interval?: number;
  fleet?: number;
  json?: boolean;
}

async function connect(options: ConnectOptions) {
  const deviceId = needed(options.id, "--id ID");
  const tokenDir = needed(options.tokenDir, "--token-dir DIR");
  const hub = needed(options.hub, "--hub HOST:PORT");
  const caFile = needed(options.ca, "--ca FILE");
  const chain = await chainOf(options);
  const ca = await readText(caFile);
  const tray = openTray(tokenDir);
  const outcomes: ConnectOutcome[] = [];
  const job = {
    kind: "connect",
    tray: tray.dir,
    hub,
    ca,
    messages: options.messages,
    intervalMs: options.interval ?? 0,
    timeoutMs: 60_000 + options.messages * (options.interval ?? 0),
    concurrency: 1,
    devices: [{ deviceId, chain }],
  } as const;
  const live = process.stdout.isTTY && !options.json ? showTelemetry : undefined;
  await runInTray(
    tray,
    { ...job, devices: [...job.devices] },
    (outcome: ConnectOutcome) => outcomes.push(outcome),
    live,
  );
  return only(outcomes);
}

function showTelemetry({ reading, ms }: StoredReading): void {
  const { messageId, temperature, humidity } = reading;
  const values = `${temperature.toFixed(1).padStart(5)} °C ${humidity.toFixed(1).padStart(5)} %`;
  print(`${new Date().toISOString().slice(11, 19)}  ${String(messageId).padStart(5)}  ${values}  stored in ${ms} ms`);
}

function needed(value: string | undefined, option: string): string {
  if (value !== undefined) return value;
  throw new CountersignError("usage", `give ${option}, or simulate devices with --fleet N`);
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

const messageCount = (text: string): number => whole(text, 0, 10_000);

const whole = (text: string, least: number, most: number): number => {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new InvalidArgumentError(`${least} to ${most}`);
};
const interval = (text: string): number => whole(text, 0, 3_600_000);
const fleetSize = (text: string): number => whole(text, 1, 5_000);

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
