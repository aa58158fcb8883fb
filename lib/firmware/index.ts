import { CountersignError } from "../domain/errors.ts";
import { elf } from "./elf.ts";
import { espFlash } from "./esp-flash.ts";
import { espNvs } from "./esp-nvs.ts";
import { espSecureCert } from "./esp-secure-cert.ts";
import type { FirmwareFormat, Layout, LayoutOption, RangeReader } from "./format.ts";
import { intelHex } from "./intel-hex.ts";
import { mcuboot } from "./mcuboot.ts";
import { raw } from "./raw.ts";
import { srec } from "./srec.ts";
import { uf2 } from "./uf2.ts";

/** One line a format. */
export const FIRMWARE_FORMATS: readonly FirmwareFormat[] = [
  elf,
  espFlash,
  espNvs,
  espSecureCert,
  intelHex,
  mcuboot,
  raw,
  srec,
  uf2,
];

/** @throws CountersignError `usage` for a name that isn't one */
export function firmwareFormat(name: string, formats = FIRMWARE_FORMATS): FirmwareFormat {
  const format = formats.find((one) => one.name === name);
  if (format !== undefined) return format;
  const names = formats.map((one) => one.name).join(", ");
  throw new CountersignError("usage", `there is no firmware format ${JSON.stringify(name.slice(0, 40))}; use ${names}`);
}

/**
 * A layout names nothing that its format would pass over.
 * @throws CountersignError `usage`
 */
export function checkLayout(format: FirmwareFormat, layout: Layout): void {
  for (const [name, value] of Object.entries(layout)) {
    if (value === undefined || name === "replace" || format.takes.includes(name as LayoutOption)) continue;
    const options = format.takes.length === 0 ? "none" : format.takes.join(", ");
    throw new CountersignError("usage", `a layout for ${format.name} takes no ${name}; its options: ${options}`);
  }
}

/** The format of an image, from bounded reads. @throws CountersignError `image-unknown-format` unless exactly one fits */
export async function detectFormat(reader: RangeReader, formats = FIRMWARE_FORMATS): Promise<FirmwareFormat> {
  const fits: FirmwareFormat[] = [];
  for (const format of formats) if (await format.detect(reader)) fits.push(format);
  if (fits.length === 1) return fits[0]!;
  const known = formats.map(({ name }) => name).join(", ");
  throw new CountersignError(
    "image-unknown-format",
    fits.length === 0
      ? `the image is in none of the formats ${known}`
      : `the image could be any of ${fits.map(({ name }) => name).join(", ")}; name the format`,
  );
}

export { checkChainFor, checkChainOrder, decodeChain, encodeChain } from "./chain.ts";
export { erasedPartition, ESP_SECURE_CERT_SIZE } from "./esp-tlv.ts";
export { IMAGE_LAYOUTS, type ImageLayout } from "./layouts.ts";
export { applyPatches, differenceOutsidePatches } from "./patch.ts";
export { checkWritten } from "./read-back.ts";
export { bytesReader, PieceReader } from "./reader.ts";
export { trialChain } from "./trial-chain.ts";
export type {
  ChainEncoding,
  Extraction,
  FirmwareFormat,
  FirmwareTemplate,
  Injection,
  Layout,
  LayoutOption,
  Patch,
  RangeReader,
  Region,
} from "./format.ts";
