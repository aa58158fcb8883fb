import { createHash, randomUUID } from "node:crypto";
import { open, readFile, rename, rm, stat } from "node:fs/promises";
import { InvalidArgumentError, Option, type Command } from "commander";
import { fromUtf8 } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import {
  applyPatches,
  bytesReader,
  checkLayout,
  checkWritten,
  decodeChain,
  detectFormat,
  FIRMWARE_FORMATS,
  firmwareFormat,
  type RangeReader,
} from "../../../lib/firmware/index.ts";
import { pemDecode, pemEncode } from "../../../lib/pki/pem.ts";
import { print, printJson } from "../output.ts";

const MAX_IMAGE_BYTES = 256 << 20;
const MAX_CHAIN_FILE_BYTES = 1 << 20;

interface InjectOptions {
  format: string;
  chain: string;
  image: string;
  out: string;
  offset?: number;
  length?: number;
  replace?: boolean;
  json?: boolean;
}

interface ExtractOptions {
  format: string;
  image: string;
  out?: string;
  offset?: number;
  json?: boolean;
}

/** `countersign firmware inject | extract | detect` */
export function registerFirmware(program: Command): void {
  const firmware = program
    .command("firmware")
    .description("put a device's chain into a firmware image, and find it there");
  const formats = FIRMWARE_FORMATS.map(({ name, summary }) => `  ${name.padEnd(16)} ${summary}`).join("\n");
  const format = () => new Option("--format <name>", "image format").makeOptionMandatory();

  firmware
    .command("inject")
    .description("write a copy of an image that holds the chain; everything else in it stays as it is")
    .addOption(format())
    .requiredOption("--chain <file>", "the chain as PEM, leaf first, without the root")
    .requiredOption("--image <file>", "the image to start from; never changed")
    .requiredOption("--out <file>", "the image to write; appears only once it was read back and found right")
    .option("--offset <number>", "where the chain goes (target address, decimal or 0x)", number)
    .option("--length <number>", "bytes reserved there; a longer chain is refused", number)
    .option("--replace", "put the chain in the place of the one that the image holds at the offset")
    .option("--json", "print what was done as JSON")
    .addHelpText(
      "after",
      `\nFormats:\n${formats}\n\nExample:\n  countersign firmware inject --format intel-hex --offset 0x3E000 --length 0x1C00 \\` +
        "\n    --chain chain.pem --image firmware.hex --out device-0001.hex",
    )
    .action(inject);

  firmware
    .command("extract")
    .description("print the chain that an image holds, as PEM")
    .addOption(format())
    .requiredOption("--image <file>", "the image to look into")
    .option("--offset <number>", "which chain, where an image holds several (decimal or 0x)", number)
    .option("--out <file>", "write the PEM here instead of to standard output")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      `\nFormats:\n${formats}\n\nExample:\n  countersign firmware extract --format esp-secure-cert --image device-0001.bin`,
    )
    .action(extract);

  firmware
    .command("detect")
    .description("say which format an image has")
    .argument("<image>", "the image to look into")
    .option("--json", "print the answer as JSON")
    .addHelpText("after", `\nFormats:\n${formats}\n\nExample:\n  countersign firmware detect firmware.hex`)
    .action(detect);
}

async function inject(options: InjectOptions): Promise<void> {
  const format = firmwareFormat(options.format);
  const chain = pemDecode(text(await readInput(options.chain, MAX_CHAIN_FILE_BYTES), options.chain), "CERTIFICATE");
  const original = await readInput(options.image, MAX_IMAGE_BYTES);
  const { offset, length, replace } = options;
  checkLayout(format, { offset, length, replace });
  const template = await format.open(bytesReader(original), { offset, length, replace });
  const injection = await template.inject(chain);
  const image = applyPatches(original, injection.patches);
  await writeWhole(options.out, image, async (written) => {
    await checkWritten(template, bytesReader(original), bytesReader(written), injection);
  });
  const receipt = {
    format: format.name,
    original: { path: options.image, sha256: sha256Hex(original) },
    image: { path: options.out, sha256: sha256Hex(image) },
    region: injection.region,
    chain: { sha256: sha256Hex(injection.chainBytes), encoding: injection.encoding },
    readBack: true,
  };
  if (options.json) return printJson(receipt);
  const at = injection.region === null ? "" : ` at 0x${injection.region.offset.toString(16).toUpperCase()}`;
  print(`${options.out}: ${chain.length} certificates (${injection.chainBytes.length} bytes)${at}, read back`);
}

async function extract(options: ExtractOptions): Promise<void> {
  const format = firmwareFormat(options.format);
  const image = await readInput(options.image, MAX_IMAGE_BYTES);
  const { chainBytes } = await format.extract(bytesReader(image), { offset: options.offset });
  const { chain, encoding } = decodeChain(chainBytes);
  const pem = chain.map((der) => pemEncode("CERTIFICATE", der)).join("");
  if (options.out !== undefined) await writeWhole(options.out, Buffer.from(pem));
  if (options.json) printJson({ image: options.image, format: format.name, encoding, chain: pem });
  else if (options.out === undefined) process.stdout.write(pem);
}

async function detect(path: string, options: { json?: boolean }): Promise<void> {
  const format = await withImage(path, detectFormat);
  if (options.json) printJson({ image: path, format: format.name });
  else print(format.name);
}

/** Ranges of a file that stays on disk. */
async function withImage<T>(path: string, use: (reader: RangeReader) => Promise<T>): Promise<T> {
  const handle = await open(path, "r").catch((cause: unknown) => unreadable(path, cause));
  try {
    const { size } = await handle.stat();
    return await use({
      size,
      async read(offset, length) {
        const into = Buffer.alloc(length);
        const { bytesRead } = await handle.read(into, 0, length, offset);
        if (bytesRead !== length)
          throw new CountersignError("image-invalid", `${path} became shorter while it was read`);
        return into;
      },
    });
  } finally {
    await handle.close();
  }
}

async function readInput(path: string, limit: number): Promise<Uint8Array> {
  const { size } = await stat(path).catch((cause: unknown) => unreadable(path, cause));
  if (size > limit)
    throw new CountersignError("input-too-large", `${path} has ${size} bytes; at most ${limit} are taken`);
  return await readFile(path).catch((cause: unknown) => unreadable(path, cause));
}

/** A file appears under its name only whole, on disk and approved by `check`; a failure leaves what was there before. */
async function writeWhole(
  path: string,
  bytes: Uint8Array,
  check: (written: Uint8Array) => Promise<void> = async () => {},
): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    const handle = await open(temporary, "wx");
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await check(await readFile(temporary));
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    if (cause instanceof CountersignError) throw cause;
    throw new CountersignError("input-invalid", `${path} can't be written: ${(cause as Error).message}`, { cause });
  }
}

function unreadable(path: string, cause: unknown): never {
  throw new CountersignError("input-invalid", `${path} can't be read: ${(cause as Error).message}`, { cause });
}

function text(bytes: Uint8Array, path: string): string {
  try {
    return fromUtf8(bytes);
  } catch (cause) {
    throw new CountersignError("pem-invalid", `${path} is no text; give the chain as PEM`, { cause });
  }
}

function number(value: string): number {
  const parsed = /^(0x[0-9a-fA-F]{1,12}|[0-9]{1,15})$/.test(value) ? Number(value) : Number.NaN;
  if (Number.isNaN(parsed)) throw new InvalidArgumentError("Give a decimal number or a hexadecimal one with 0x.");
  return parsed;
}

function sha256Hex(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
