import {
  detectFormat as detectAmong,
  FIRMWARE_FORMATS as PORTABLE,
  firmwareFormat as formatAmong,
  type FirmwareFormat,
  type RangeReader,
} from "../../lib/firmware/index.ts";
import { ext4 } from "./ext4.ts";

/** All formats: those of lib/, and the one that needs Node. */
export const FIRMWARE_FORMATS: readonly FirmwareFormat[] = [...PORTABLE, ext4];

/** @throws CountersignError `usage` for a name that isn't one */
export function firmwareFormat(name: string): FirmwareFormat {
  return formatAmong(name, FIRMWARE_FORMATS);
}

/** @throws CountersignError `image-unknown-format` unless exactly one fits */
export function detectFormat(reader: RangeReader): Promise<FirmwareFormat> {
  return detectAmong(reader, FIRMWARE_FORMATS);
}
