import { randomUUID } from "node:crypto";
import { createReadStream, rmSync } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { constants } from "node:os";
import { join } from "node:path";
import { Option, type Command } from "commander";
import { fromUtf8 } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { Layout } from "../../../lib/firmware/index.ts";
import { pemDecode, pemEncode } from "../../../lib/pki/pem.ts";
import {
  detectFile,
  extractFile,
  FIRMWARE_FORMATS,
  firmwareFormat,
  injectFile,
  withImageKey,
} from "../../site/firmware.ts";
import { addLayoutOptions, layoutOf } from "../layout-options.ts";
import { note, print, printJson } from "../output.ts";
import { stateFolder } from "../site-client.ts";

const MAX_CHAIN_FILE_BYTES = 1 << 20;

interface InjectOptions extends Layout {
  format: string;
  chain: string;
  image: string;
  out: string;
  site?: string;
  json?: boolean;
}

interface ExtractOptions extends Layout {
  format: string;
  image: string;
  out?: string;
  json?: boolean;
}

/** `countersign firmware inject | extract | detect` */
export function registerFirmware(program: Command): void {
  const firmware = program
    .command("firmware")
    .description("put a device's chain into a firmware image, and find it there");
  const formats = FIRMWARE_FORMATS.map(({ name, summary }) => `  ${name.padEnd(16)} ${summary}`).join("\n");
  const format = () => new Option("--format <name>", "image format").makeOptionMandatory();

  addLayoutOptions(firmware.command("inject"))
    .description("write a copy of an image that holds the chain; everything else in it stays as it is")
    .addOption(format())
    .requiredOption("--chain <file>", "the chain as PEM, leaf first, without the root")
    .requiredOption("--image <file>", "the image to start from; stays as it is, unless --out names it too")
    .requiredOption("--out <file>", "the image to write; appears only once it was read back and found right")
    .option("--replace", "put the chain in the place of the one that the image holds there")
    .option("--site <id>", "mcuboot: the site whose image-signing key signs the image again")
    .option("--json", "print what was done as JSON")
    .addHelpText(
      "after",
      `\nFormats:\n${formats}\n\nExample:\n  countersign firmware inject --format intel-hex --offset 0x3E000 --length 0x1C00 \\` +
        "\n    --chain chain.pem --image firmware.hex --out device-0001.hex",
    )
    .action(inject);

  addLayoutOptions(firmware.command("extract"))
    .description("print the chain that an image holds, as PEM")
    .addOption(format())
    .requiredOption("--image <file>", "the image to look into")
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
  const chain = pemDecode(text(await readInput(options.chain, MAX_CHAIN_FILE_BYTES), options.chain), "CERTIFICATE");
  const { format: name, image: from, out } = options;
  const { chainSha256, format, image, injection, original } = await withTemporary(out, (temporary) => {
    const request = { format: name, layout: layoutOf(options), chain, image: from, out, temporary };
    return options.site === undefined || firmwareFormat(name).signs !== true
      ? injectFile(request)
      : withImageKey(join(stateFolder(), options.site, "site.json"), (signer) => injectFile({ ...request, signer }));
  });
  if (format.warning !== undefined) note(format.warning);
  const receipt = {
    format: format.name,
    original: { path: options.image, sha256: original },
    image: { path: options.out, sha256: image },
    region: injection.region,
    chain: { sha256: chainSha256, encoding: injection.encoding },
    readBack: true,
  };
  if (options.json) return printJson(receipt);
  const at = injection.region === null ? "" : ` at 0x${injection.region.offset.toString(16).toUpperCase()}`;
  print(`${options.out}: ${chain.length} certificates (${injection.chainBytes.length} bytes)${at}, read back`);
}

async function extract(options: ExtractOptions): Promise<void> {
  const { chain, encoding, format } = await extractFile({ ...options, layout: layoutOf(options) });
  const pem = chain.map((der) => pemEncode("CERTIFICATE", der)).join("");
  if (options.out !== undefined) await writeWhole(options.out, Buffer.from(pem));
  if (options.json) printJson({ image: options.image, format: format.name, encoding, chain: pem });
  else if (options.out === undefined) process.stdout.write(pem);
}

async function detect(path: string, options: { json?: boolean }): Promise<void> {
  const format = await detectFile(path);
  if (options.json) printJson({ image: path, format: format.name });
  else print(format.name);
}

/** Never more than `limit`: a device or a pipe has no size that says so. */
async function readInput(path: string, limit: number): Promise<Uint8Array> {
  const pieces: Buffer[] = [];
  let size = 0;
  try {
    for await (const piece of createReadStream(path)) {
      pieces.push(piece as Buffer);
      if ((size += (piece as Buffer).length) > limit) break;
    }
  } catch (cause) {
    throw new CountersignError("input-invalid", `${path} can't be read: ${(cause as Error).message}`, { cause });
  }
  if (size <= limit) return Buffer.concat(pieces);
  throw new CountersignError("input-too-large", `${path} has more than the ${limit} bytes that are taken`);
}

/** Gives a name beside `path` to write under, and leaves nothing of that name when the program is told to stop. */
async function withTemporary<T>(path: string, write: (temporary: string) => Promise<T>): Promise<T> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  const stop = (signal: "SIGINT" | "SIGTERM" | "SIGHUP") => {
    rmSync(temporary, { force: true });
    process.exit(128 + constants.signals[signal]);
  };
  process.on("SIGINT", stop).on("SIGTERM", stop).on("SIGHUP", stop);
  try {
    return await write(temporary);
  } finally {
    process.off("SIGINT", stop).off("SIGTERM", stop).off("SIGHUP", stop);
  }
}

/** A file appears under its name only whole and on disk; a failure leaves what was there before. */
async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  await withTemporary(path, async (temporary) => {
    try {
      const handle = await open(temporary, "wx");
      try {
        await handle.writeFile(bytes);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(temporary, path);
    } catch (cause) {
      await rm(temporary, { force: true });
      throw new CountersignError("input-invalid", `${path} can't be written: ${(cause as Error).message}`, { cause });
    }
  });
}

function text(bytes: Uint8Array, path: string): string {
  try {
    return fromUtf8(bytes);
  } catch (cause) {
    throw new CountersignError("pem-invalid", `${path} is no text; give the chain as PEM`, { cause });
  }
}
