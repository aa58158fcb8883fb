import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { fromUtf8, toHex, utf8 } from "../../lib/domain/bytes.ts";
import {
  applyPatches,
  bytesReader,
  checkWritten,
  detectFormat,
  encodeChain,
  firmwareFormat,
  type Layout,
} from "../../lib/firmware/index.ts";
import { TestChains, type TestChain } from "../support/chains.ts";
import { pythonTool, tempDir, testImage, tool } from "../support/index.ts";
import { mbedtlsParse } from "../support/mbedtls.ts";
import { board } from "../support/qemu.ts";
import { relinked, speaker } from "../support/reserved-elf.ts";

/** Real firmware in ELF, as binutils, pyelftools and a Cortex-M3 see it with a chain. */

let original: Uint8Array;
let devices: TestChain[];
beforeAll(async () => {
  const cas = await TestChains.create();
  devices = await Promise.all([1, 3, 6].map((length) => cas.leaf(`device-${length}`, length)));
  original = relinked(testImage("rp2040-hello-usb.elf"), 0x10000000);
});

async function inject(image: Uint8Array, { chain }: TestChain, layout: Layout = {}): Promise<Uint8Array> {
  const template = await firmwareFormat("elf").open(bytesReader(image), layout);
  const injection = await template.inject(chain);
  const out = applyPatches(image, injection.patches);
  await checkWritten(template, bytesReader(image), bytesReader(out), injection);
  return out;
}

/** Runs a program of binutils on an image; what it prints, or the file it writes. */
function binutils(name: string, image: Uint8Array, ...args: string[]): Buffer {
  const folder = tempDir("elf");
  writeFileSync(join(folder, "image.elf"), image);
  const out = execFileSync(
    tool(`arm-none-eabi-${name}`),
    [...args, "image.elf", ...(name === "objcopy" ? ["out"] : [])],
    {
      cwd: folder,
      stdio: "pipe",
    },
  );
  return name === "objcopy" ? readFileSync(join(folder, "out")) : out;
}

const READ = `
import json, sys
from elftools.elf.elffile import ELFFile
image = ELFFile(open(sys.argv[1], "rb"))
print(json.dumps({s.name: s.data().hex() for s in image.iter_sections() if s.name and s["sh_type"] == "SHT_PROGBITS"}))
`;

function pyelftools(image: Uint8Array): Record<string, string> {
  const file = join(tempDir("elf"), "image.elf");
  writeFileSync(file, image);
  const out = execFileSync(pythonTool("python"), ["-c", READ, file], { encoding: "utf8", maxBuffer: 1 << 26 });
  return JSON.parse(out) as Record<string, string>;
}

describe("the RP2040's hello_usb, linked with a reserved section", () => {
  it("holds the chain where a programmer puts it; headers, symbols and code are as they were", async () => {
    expect((await detectFormat(bytesReader(original))).name).toBe("elf");
    const before = pyelftools(original);
    const flash = binutils("objcopy", original, "-O", "binary");
    for (const device of devices) {
      const image = await inject(original, device);
      const chain = encodeChain(device.chain);
      const after = pyelftools(image);
      expect(after[".countersign"]).toBe(toHex(chain).padEnd(0x4000, "f"));
      expect({ ...after, ".countersign": "" }).toEqual({ ...before, ".countersign": "" });
      expect(binutils("readelf", image, "-a", "-W").equals(binutils("readelf", original, "-a", "-W"))).toBe(true);

      const section = binutils("objcopy", image, "-O", "binary", "--only-section=.countersign");
      const parsed = mbedtlsParse(section.subarray(0, section.indexOf(0) + 1), device.root);
      if (!parsed.ok) throw new Error(parsed.why);
      expect(parsed.certificates.map(toHex)).toEqual(device.chain.map(toHex));
      const written = binutils("objcopy", image, "-O", "binary");
      const at = flash.length - 0x2000;
      expect(written.subarray(0, at).equals(flash.subarray(0, at))).toBe(true);
      expect(written.subarray(at).equals(section)).toBe(true);
    }
  });
});

describe("an image that no linker prepared", () => {
  it("is refused: as it comes, and with a section that objcopy added", async () => {
    const real = testImage("rp2040-hello-usb.elf");
    await expect(inject(real, devices[1]!)).rejects.toMatchObject({ code: "image-region-missing" });
    await expect(inject(real, devices[1]!, { section: ".rodata" })).rejects.toMatchObject({
      code: "image-region-overlap",
    });
    await expect(inject(real, devices[1]!, { section: ".text" })).rejects.toMatchObject({
      code: "image-region-overlap",
    });
    await expect(inject(real, devices[1]!, { section: ".bss" })).rejects.toMatchObject({
      code: "image-region-missing",
    });
    const blank = join(tempDir("elf"), "blank");
    writeFileSync(blank, new Uint8Array(0x1000).fill(0xff));
    const added = binutils(
      "objcopy",
      real,
      `--add-section=.countersign=${blank}`,
      "--set-section-flags=.countersign=alloc,load,readonly",
      "--change-section-address=.countersign=0x10100000",
    );
    await expect(inject(added, devices[1]!)).rejects.toMatchObject({ code: "image-region-missing" });
  });
});

describe("a Cortex-M3 in QEMU", () => {
  it("boots an injected image and reads its own chain out of flash", async () => {
    const device = devices[2]!;
    const file = join(tempDir("elf"), "image.elf");
    writeFileSync(file, await inject(speaker(), device));
    const whole = fromUtf8(encodeChain(device.chain)).slice(0, -1);
    const complete = (said: string) => said.replaceAll("\r", "").length >= whole.length;
    const said = await board(["-kernel", file], complete, 0);
    expect(said.replaceAll("\r", "")).toBe(whole);
    expect(mbedtlsParse(utf8(`${said}\0`), device.root)).toMatchObject({ ok: true });
  });
});
