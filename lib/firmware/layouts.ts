import type { FirmwareFormatName } from "../records/receipt.ts";
import type { Layout } from "./format.ts";

export interface ImageLayout {
  readonly format: FirmwareFormatName;
  readonly layout: Layout;
}

/**
 * Layouts of the images that set-up puts in place, by their names. The micro:bit's nRF51822 has 256 KiB of flash in
 * pages of 1 KiB; MicroPython's code ends at 0x3B88C and its last page (0x3FC00) holds the compass calibration. The
 * 7 KiB below that page are free in the image. MicroPython's own file system would claim them at run time: firmware
 * that goes into the field reserves such a region in its linker script. The nRF52840's 1 MiB ends with Zephyr's storage
 * partition (0xF8000 to 0xFFFFF), empty in the image; the chain lies in its last 8 KiB.
 */
export const IMAGE_LAYOUTS: Readonly<Record<string, ImageLayout>> = {
  "microbit-micropython": { format: "intel-hex", layout: { offset: 0x3e000, length: 0x1c00 } },
  "nrf52840dk-smp": { format: "intel-hex", layout: { offset: 0xfe000, length: 0x1c00 } },
  "esp-secure-cert": { format: "esp-secure-cert", layout: {} },
};
