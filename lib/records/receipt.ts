import { z } from "zod";
import { deviceId, lotId, sha256Hex, slotNumber } from "./primitives.ts";

export const FIRMWARE_FORMATS = [
  "esp-secure-cert",
  "esp-flash",
  "intel-hex",
  "raw",
  "esp-nvs",
  "srec",
  "ext4",
  "mcuboot",
  "uf2",
  "elf",
] as const;
export type FirmwareFormatName = (typeof FIRMWARE_FORMATS)[number];

const file = z.strictObject({ path: z.string().min(1).max(512), sha256: sha256Hex });

/**
 * Injection receipt. `region.offset` is a byte offset in the file, or the target address for HEX, SREC and UF2;
 * `chain.sha256` covers the bytes injected, a final NUL included.
 */
export const receipt = z.strictObject({
  schema: z.literal(1),
  deviceId,
  lot: lotId,
  slot: slotNumber,
  format: z.enum(FIRMWARE_FORMATS),
  original: file,
  image: file,
  region: z.strictObject({ offset: z.int().min(0), length: z.int().min(1) }).nullable(),
  chain: z.strictObject({ sha256: sha256Hex, encoding: z.enum(["pem-nul", "pem", "der"]) }),
  readBack: z.literal(true),
  toolVersion: z.string().min(1).max(32),
});
export type Receipt = z.infer<typeof receipt>;
