import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { detectFormat, bytesReader, encodeChain, firmwareFormat, type Layout } from "../../lib/firmware/index.ts";
import { TestChains, type TestChain } from "../support/chains.ts";
import { pythonTool, tempDir, testImage, tool } from "../support/index.ts";
import { extracted, injected } from "../support/injection.ts";
import { mbedtlsParse } from "../support/mbedtls.ts";

/** Real S-records, UF2 and raw images with chains, as bincopy, SRecord, uf2utils, imgtool and mbedTLS see them. */

let devices: TestChain[];
beforeAll(async () => {
  const cas = await TestChains.create();
  devices = await Promise.all([1, 3, 6].map((length) => cas.leaf(`device-${length}`, length)));
});

function python(script: string, ...args: string[]): unknown {
  const out = execFileSync(pythonTool("python"), ["-c", script, ...args], { encoding: "utf8", maxBuffer: 1 << 27 });
  return JSON.parse(out);
}

function file(name: string, image: Uint8Array): string {
  const path = join(tempDir("image"), name);
  writeFileSync(path, image);
  return path;
}

/** Whoever extracts it, mbedTLS as an ESP32 has it reads the chain and verifies it to the root. */
async function readAsOnChip(format: string, image: Uint8Array, device: TestChain, layout?: Layout): Promise<void> {
  const { chainBytes } = await extracted(firmwareFormat(format), image, layout);
  const answer = mbedtlsParse(chainBytes, device.root);
  if (!answer.ok) throw new Error(answer.why);
  expect(answer.certificates.map((der) => Buffer.from(der))).toEqual(device.chain.map((der) => Buffer.from(der)));
}

type Memory = Record<string, string>;

describe("NXP's i.MX RT1050 blinky in S-records", () => {
  const BINCOPY = `
import bincopy, json, sys
image = bincopy.BinFile()
image.add_srec_file(sys.argv[1])
print(json.dumps({"start": image.execution_start_address, "segments": {str(s.minimum_address): bytes(s.data).hex() for s in image.segments}}))
`;

  it("is, to bincopy and to SRecord, the same program and the chain", async () => {
    const original = testImage("imxrt1050-blinky.s19");
    expect((await detectFormat(bytesReader(original))).name).toBe("srec");
    const before = python(BINCOPY, file("a.s19", original)) as { start: number; segments: Memory };
    for (const device of devices) {
      const chain = encodeChain(device.chain);
      const image = await injected(firmwareFormat("srec"), original, device.chain, { offset: 0x80100000 });
      const path = file("b.s19", image);
      const after = python(BINCOPY, path) as { start: number; segments: Memory };
      expect(after.start).toBe(before.start);
      expect(after.segments).toEqual({ ...before.segments, [0x80100000]: Buffer.from(chain).toString("hex") });

      const only = join(tempDir("srec"), "chain.bin");
      const crop = ["-crop", "0x80100000", "0x80200000", "-offset", "-0x80100000"];
      execFileSync(tool("srec_cat"), [path, "-motorola", ...crop, "-o", only, "-binary"], { stdio: "pipe" });
      expect(readFileSync(only).equals(Buffer.from(chain))).toBe(true);
      const rest = join(tempDir("srec"), "rest.s19");
      const same = join(tempDir("srec"), "same.s19");
      execFileSync(tool("srec_cat"), [path, "-exclude", "0x80100000", "0x80200000", "-o", rest], { stdio: "pipe" });
      execFileSync(tool("srec_cat"), [file("a.s19", original), "-o", same], { stdio: "pipe" });
      expect(readFileSync(rest, "latin1")).toBe(readFileSync(same, "latin1"));
      await readAsOnChip("srec", image, device);
    }
  });
});

describe("the RP2040's hello_usb in UF2", () => {
  const UF2UTILS = `
import json, sys
from uf2utils.file import UF2File
blocks = [(b.header.address, b.header.board_family, b.header.block_number, bytes(b.payload).hex()) for b in UF2File(sys.argv[1])]
print(json.dumps(blocks))
`;

  it("is, to uf2utils, the same blocks and the chain's", async () => {
    const original = testImage("rp2040-hello-usb.uf2");
    expect((await detectFormat(bytesReader(original))).name).toBe("uf2");
    type Block = [address: number, family: number, number: number, payload: string];
    const blocks = (image: Uint8Array) => python(UF2UTILS, file("image.uf2", image)) as Block[];
    const before = blocks(original);
    for (const device of devices) {
      const chain = encodeChain(device.chain);
      const image = await injected(firmwareFormat("uf2"), original, device.chain, {
        offset: 0x101f0000,
        length: 0x2000,
      });
      const after = blocks(image);
      expect(after.slice(0, before.length)).toEqual(before);
      expect(after.map(([, , number]) => number)).toEqual([...after.keys()]);
      const added = after.slice(before.length);
      expect(added.map(([address]) => address)).toEqual(added.map((_, i) => 0x101f0000 + 256 * i));
      expect(new Set(added.map(([, family]) => family))).toEqual(new Set(before.map(([, family]) => family)));
      const written = Buffer.from(added.map(([, , , payload]) => payload).join(""), "hex");
      expect(written.subarray(0, chain.length).equals(Buffer.from(chain))).toBe(true);
      await readAsOnChip("uf2", image, device);
    }
  });
});

describe("a flash with a signed Zephyr in its slot, as a raw image", () => {
  it("keeps imgtool's signature, with the chain in blank flash behind the slot and behind the image's end", async () => {
    const signed = testImage("nrf52840-zephyr.bin");
    const slot = Math.ceil((signed.length + 1) / 4096) * 4096;
    const flash = new Uint8Array(slot + 0x4000).fill(0xff);
    flash.set(signed);
    for (const device of devices) {
      for (const [original, offset] of [
        [flash, slot + 0x1000],
        [signed, slot],
      ] as const) {
        const image = await injected(firmwareFormat("raw"), original, device.chain, { offset });
        expect(Buffer.from(image.subarray(0, signed.length)).equals(Buffer.from(signed))).toBe(true);
        const verify = () =>
          execFileSync(pythonTool("imgtool"), ["verify", file("flash.bin", image)], { encoding: "utf8" });
        expect(verify()).toContain("Image was correctly validated");
        await readAsOnChip("raw", image, device);
        await readAsOnChip("raw", image, device, { offset });
      }
    }
    const over = injected(firmwareFormat("raw"), flash, devices[1]!.chain, { offset: signed.length - 600 });
    await expect(over).rejects.toMatchObject({ code: "image-region-overlap" });
  });
});
