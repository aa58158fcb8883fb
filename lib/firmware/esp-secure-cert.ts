import { CountersignError } from "../domain/errors.ts";
import { extractFromPartition, LARGEST_PARTITION, openPartition, startsWithEntry } from "./esp-tlv.ts";
import type { FirmwareFormat } from "./format.ts";

/** A lone esp_secure_cert partition. Its template is an erased one, or one that holds other entries already. */
export const espSecureCert: FirmwareFormat = {
  name: "esp-secure-cert",
  extension: "bin",
  summary: "Espressif esp_secure_cert partition image (usually 0x2000 bytes); takes no --offset",
  takes: ["offset", "length"],

  async detect(reader) {
    return reader.size <= LARGEST_PARTITION && (await startsWithEntry(reader));
  },

  async open(reader, layout) {
    if (layout.offset !== undefined && layout.offset !== 0) {
      throw new CountersignError(
        "usage",
        "an esp-secure-cert image is the partition itself, which the chip reads from its start: leave --offset out",
      );
    }
    return await openPartition(reader, layout);
  },

  extract: extractFromPartition,
};
