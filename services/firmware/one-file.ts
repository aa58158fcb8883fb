import { randomUUID } from "node:crypto";
import { open, rename, rm } from "node:fs/promises";
import { CountersignError } from "../../lib/domain/errors.ts";
import {
  checkLayout,
  checkWritten,
  decodeChain,
  type ChainEncoding,
  type FirmwareFormat,
  type Injection,
  type Layout,
} from "../../lib/firmware/index.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import { detectFormat, firmwareFormat } from "./formats.ts";
import { digestOf, openImage, writePatched, type ImageFile } from "./image-file.ts";

/** One image by hand, of any size. */

export interface FileInjection {
  readonly format: FirmwareFormat;
  /** hex, of the image read and of the one written */
  readonly original: string;
  readonly image: string;
  readonly injection: Injection;
  /** hex */
  readonly chainSha256: string;
}

/**
 * Writes a copy of an image that holds the chain. `out` appears only once it was read back, found right and is on disk;
 * a refusal leaves what was there before.
 * @param chain DER, leaf first
 * @throws CountersignError `input-invalid` for files, and those of the format
 */
export async function injectFile(request: {
  format: string;
  layout: Layout;
  chain: readonly Uint8Array[];
  image: string;
  out: string;
  signer?: Signer | undefined;
  /** where the copy is made, beside `out`; whoever is told to stop takes it away */
  temporary?: string | undefined;
}): Promise<FileInjection> {
  const { chain, layout, out, signer, temporary = `${out}.${randomUUID()}.tmp` } = request;
  const format = firmwareFormat(request.format);
  checkLayout(format, layout);
  return await withImage(request.image, async (original) => {
    const template = await format.open(original, layout, signer);
    const injection = await template.inject(chain);
    try {
      await writePatched(original, injection.patches, temporary);
      const image = await withImage(temporary, async (written) => {
        await checkWritten(template, original, written, injection);
        return await digestOf(written);
      });
      const before = await digestOf(original);
      if (await original.changed()) {
        throw new CountersignError("image-invalid", `${request.image} was changed while it was read; run this again`);
      }
      await syncFile(temporary);
      await rename(temporary, out);
      const chainSha256 = sha256Hex(injection.chainBytes);
      return { format, original: before, image, injection, chainSha256 };
    } catch (cause) {
      await rm(temporary, { force: true });
      if (cause instanceof CountersignError) throw cause;
      throw new CountersignError("input-invalid", `${out} can't be written: ${(cause as Error).message}`, { cause });
    }
  });
}

/** @throws CountersignError `input-invalid` for files, and those of the format */
export async function extractFile(request: {
  format: string;
  layout: Layout;
  image: string;
}): Promise<{ format: FirmwareFormat; chain: Uint8Array[]; encoding: ChainEncoding }> {
  const format = firmwareFormat(request.format);
  checkLayout(format, request.layout);
  const { chainBytes } = await withImage(request.image, (image) => format.extract(image, request.layout));
  return { format, ...decodeChain(chainBytes) };
}

/** @throws CountersignError `input-invalid`, `image-unknown-format` */
export async function detectFile(path: string): Promise<FirmwareFormat> {
  return await withImage(path, detectFormat);
}

/** Hex. @throws CountersignError `input-invalid` */
export async function digestOfFile(path: string): Promise<string> {
  return await withImage(path, digestOf);
}

async function withImage<T>(path: string, use: (image: ImageFile) => Promise<T>): Promise<T> {
  const image = await openImage(path).catch((cause: unknown) => {
    throw new CountersignError("input-invalid", `${path} can't be read: ${(cause as Error).message}`, { cause });
  });
  try {
    return await use(image);
  } finally {
    await image.close();
  }
}

async function syncFile(path: string): Promise<void> {
  const handle = await open(path, "r+");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
