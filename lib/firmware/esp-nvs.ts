import type { FirmwareFormat } from "./format.ts";
import { extractFromNvs, looksLikeNvs, NVS_OPTIONS, openNvs } from "./nvs-partition.ts";

/** A lone NVS partition. Its template is an erased one (all FF, three pages or more), or one with other items. */
export const espNvs: FirmwareFormat = {
  name: "esp-nvs",
  extension: "bin",
  summary: "Espressif NVS partition image; --namespace and --key name the entry (--type blob or string)",
  takes: NVS_OPTIONS,
  detect: looksLikeNvs,
  open: openNvs,
  extract: extractFromNvs,
};
