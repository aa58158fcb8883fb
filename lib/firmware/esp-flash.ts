import { CountersignError } from "../domain/errors.ts";
import { extractFromPartition, LARGEST_PARTITION, openPartition } from "./esp-tlv.ts";
import type { Extraction, FirmwareFormat, FirmwareTemplate, Layout, RangeReader } from "./format.ts";
import { extractFromNvs, NVS_OPTIONS, openNvs } from "./nvs-partition.ts";
import { checkInside, readPartitionTable, type EspPartition, type EspPartitionTable } from "./partition-table.ts";
import { windowExtraction, windowReader, windowTemplate } from "./window.ts";

/**
 * A whole ESP flash image with its partition table: the chain goes into the esp_secure_cert partition, or into an NVS
 * partition that the layout names. Nothing else of the flash is touched or held in memory.
 */

const SECURE_CERT = 0x3f;
const DATA = 0x01;
const NVS = 0x02;

interface Content {
  open(reader: RangeReader, layout: Layout): Promise<FirmwareTemplate>;
  extract(reader: RangeReader, layout: Layout): Promise<Extraction>;
}

const SECURE_CERT_CONTENT: Content = { open: openPartition, extract: extractFromPartition };
const NVS_CONTENT: Content = { open: openNvs, extract: extractFromNvs };

export const espFlash: FirmwareFormat = {
  name: "esp-flash",
  extension: "bin",
  summary:
    "whole ESP flash image; --partition names an esp_secure_cert or NVS partition (default: the esp_secure_cert one), " +
    "--offset the partition table where it isn't found",
  takes: ["offset", "length", "partition", ...NVS_OPTIONS],

  async detect(reader) {
    try {
      return (await readPartitionTable(reader)).partitions.length > 0;
    } catch {
      return false;
    }
  },

  async open(reader, layout) {
    const { content, partition } = await choose(reader, layout);
    const window = windowReader(reader, partition.offset, partition.size);
    return windowTemplate(await content.open(window, layout), partition.offset, partition.size);
  },

  async extract(reader, layout = {}) {
    const { content, partition } = await choose(reader, layout);
    const window = windowReader(reader, partition.offset, partition.size);
    return windowExtraction(await content.extract(window, layout), partition.offset);
  },
};

async function choose(reader: RangeReader, layout: Layout): Promise<{ content: Content; partition: EspPartition }> {
  const { offset } = layout;
  if (offset !== undefined && (!Number.isSafeInteger(offset) || offset < 0)) {
    throw new CountersignError(
      "usage",
      `the offset must be that of the partition table (usually 0x8000), not ${offset}`,
    );
  }
  const partition = find(await readPartitionTable(reader, offset), layout.partition);
  if (partition.encrypted) {
    throw new CountersignError(
      "image-encrypted",
      `the partition ${JSON.stringify(partition.label)} is encrypted on the chip, which couldn't read a chain in the ` +
        "clear; use one without the flag (certificates are public)",
    );
  }
  checkInside(partition, reader.size);
  const content = contentOf(partition);
  const nvs = NVS_OPTIONS.find((option) => layout[option] !== undefined);
  if (content === SECURE_CERT_CONTENT && nvs !== undefined) {
    throw new CountersignError("usage", `an esp_secure_cert partition takes no ${nvs}; name the NVS partition`);
  }
  if (content === SECURE_CERT_CONTENT && partition.size > LARGEST_PARTITION) {
    throw new CountersignError(
      "image-invalid",
      "the esp_secure_cert partition has 64 KiB or more: the chip won't read it",
    );
  }
  return { content, partition };
}

function find({ partitions }: EspPartitionTable, label: string | undefined): EspPartition {
  const fits = partitions.filter((one) => (label === undefined ? one.type === SECURE_CERT : one.label === label));
  if (fits.length === 1) return fits[0]!;
  const labels = partitions.map((one) => JSON.stringify(one.label)).join(", ");
  const what = label === undefined ? "esp_secure_cert partition (type 0x3F)" : `partition ${JSON.stringify(label)}`;
  throw new CountersignError(
    "image-region-missing",
    `the flash has ${fits.length === 0 ? "no" : "more than one"} ${what}; its partitions: ${labels}`,
  );
}

function contentOf({ label, subtype, type }: EspPartition): Content {
  if (type === SECURE_CERT) return SECURE_CERT_CONTENT;
  if (type === DATA && subtype === NVS) return NVS_CONTENT;
  throw new CountersignError(
    "image-region-overlap",
    `the partition ${JSON.stringify(label)} holds neither esp_secure_cert nor NVS (type ${type}, subtype ${subtype})`,
  );
}
