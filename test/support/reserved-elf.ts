import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tempDir, tool } from "./index.ts";

/** Firmware that the GNU linker links anew with a section reserved for the chain, as its own build would. */

/** A real firmware's flash content, at its own address, and 8 KiB behind it. */
export function relinked(elf: Uint8Array, address: number): Uint8Array {
  const folder = tempDir("elf");
  writeFileSync(join(folder, "original.elf"), elf);
  execFileSync(tool("arm-none-eabi-objcopy"), ["-O", "binary", "original.elf", "firmware.bin"], { cwd: folder });
  return link(folder, '.section .firmware, "ax"\n.incbin "firmware.bin"\n', address);
}

/**
 * A program for QEMU's mps2-an385 that says on its first UART what its reserved section holds, up to the first NUL.
 * UART: CMSDK APB at 0x40004000 (data, state, control).
 */
export function speaker(): Uint8Array {
  return link(
    tempDir("elf"),
    `.syntax unified
.cpu cortex-m3
.thumb
.section .firmware, "ax"
.word 0x20002000
.word start + 1
start:
  ldr r0, =0x40004000
  movs r1, #1
  str r1, [r0, #8]
  ldr r2, =__countersign_start
next:
  ldrb r1, [r2], #1
  cbz r1, done
wait:
  ldr r3, [r0, #4]
  tst r3, #1
  bne wait
  str r1, [r0]
  b next
done:
  b done
.ltorg
`,
    0,
  );
}

const RESERVE = `.section .countersign, "a"
.global __countersign_start
__countersign_start:
.fill 0x2000, 1, 0xff
`;

function link(folder: string, assembly: string, address: number): Uint8Array {
  writeFileSync(join(folder, "firmware.s"), assembly + RESERVE);
  writeFileSync(
    join(folder, "firmware.ld"),
    `MEMORY { FLASH (rx) : ORIGIN = ${address}, LENGTH = 2M }
SECTIONS {
  .firmware : { KEEP(*(.firmware)) } > FLASH
  .countersign : ALIGN(0x1000) { KEEP(*(.countersign)) } > FLASH
}
`,
  );
  execFileSync(tool("arm-none-eabi-as"), ["-mthumb", "-o", "firmware.o", "firmware.s"], { cwd: folder });
  const ld = ["-T", "firmware.ld", "-e", String(address), "-o", "firmware.elf", "firmware.o"];
  execFileSync(tool("arm-none-eabi-ld"), ld, { cwd: folder, stdio: "pipe" });
  return new Uint8Array(readFileSync(join(folder, "firmware.elf")));
}
