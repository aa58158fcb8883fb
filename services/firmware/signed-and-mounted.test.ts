import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createPinFile, initToken, openToken, type Token } from "../../hsm/index.ts";
import { sha256Hex } from "../../lib/domain/hash.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { bytesReader, encodeChain, type Layout } from "../../lib/firmware/index.ts";
import { receipt } from "../../lib/records/receipt.ts";
import { TestChains, type TestChain } from "../../test/support/chains.ts";
import { faults, makePartition } from "../../test/support/ext4.ts";
import { softhsmDir, tempDir, testImage } from "../../test/support/index.ts";
import { firmwareFormat } from "./formats.ts";
import { injectBatch, type InjectionResult } from "./inject.ts";
import { validateLayout } from "./prepared.ts";

/** Batches in the two formats that need more than bytes: a token that signs, and a file system's library. */

let token: Token;
let signer: Signer;
let made: TestChain[];
let stranger: TestChain;
beforeAll(async () => {
  const { module } = softhsmDir();
  const pin = await createPinFile(join(tempDir("image-key"), "pin"));
  await initToken({ module, label: "site", pin });
  token = await openToken({ module, uri: "pkcs11:token=site", pin });
  signer = await token.generateImageKey({ label: "image", algorithm: "ec-p256" });
  const cas = await TestChains.create();
  made = await Promise.all([1, 2, 3].map((i) => cas.leaf(`device-${i}`)));
  stranger = await cas.leaf("device-9");
});
afterAll(() => token.close());

async function batch(format: string, image: Uint8Array, layout: Layout): Promise<readonly InjectionResult[]> {
  const templatePath = join(tempDir("firmware"), "template");
  writeFileSync(templatePath, image);
  const { sha256: templateSha256 } = await validateLayout({ format, templatePath, layout });
  const devices = made.map(({ chain, spki }, i) => ({
    deviceId: `device-${i + 1}`,
    lot: "lot-1",
    slot: i + 1,
    // Somebody hands the third device another one's chain.
    chainDer: i === 2 ? stranger.chain : chain,
    spki,
  }));
  return await injectBatch({
    format,
    templatePath,
    templateSha256,
    layout,
    signer,
    outDir: tempDir("images"),
    devices,
  });
}

describe.each([
  ["mcuboot", () => testImage("tfm-secure.bin"), {}, "der"],
  ["mcuboot", () => testImage("mps2-zephyr.bin"), { length: 0x80000, encoding: "pem-nul" }, "pem-nul"],
  ["ext4", () => makePartition({ files: {} }), { path: "/factory/chain.pem" }, "pem"],
] as const)("a batch of %s images", (format, image, layout, encoding) => {
  it("has each device's chain in its image and its receipt, and refuses another device's", async () => {
    const original = image();
    const results = await batch(format, original, layout);
    for (const [i, result] of results.slice(0, 2).entries()) {
      if (!result.ok) throw result.error;
      const written = new Uint8Array(readFileSync(result.imagePath));
      const { chainBytes, region } = await firmwareFormat(format).extract(bytesReader(written));
      expect(chainBytes).toEqual(encodeChain(made[i]!.chain, encoding));
      expect(receipt.parse(result.receipt)).toMatchObject({
        format,
        original: { sha256: sha256Hex(original) },
        image: { sha256: sha256Hex(written) },
        region,
        chain: { sha256: sha256Hex(chainBytes), encoding },
      });
      expect(region === null).toBe(format === "ext4");
      if (format === "ext4") expect(faults(written)).toBe("");
    }
    expect(results[2]).toMatchObject({ ok: false, error: { code: "read-back-mismatch" } });
  });
});

describe("a lot's layout", () => {
  const refused = async (format: string, image: Uint8Array, layout: Layout, code: string) => {
    await expect(batch(format, image, layout)).rejects.toMatchObject({ code });
  };

  it("is refused when the lot is opened, before any device's chain is there", async () => {
    const app = testImage("mps2-zephyr.bin");
    await refused("mcuboot", app, { length: app.length + 3200 }, "image-region-too-small");
    await refused("mcuboot", app, { tag: 1 }, "usage");
    await refused("mcuboot", testImage("rt1060-zephyr.bin"), {}, "key-unsupported");
    await refused("mcuboot", app, { offset: 0 }, "usage");
    await refused("ext4", makePartition({ files: {} }), { path: "/nowhere/chain.pem" }, "image-region-missing");
    await refused("elf", testImage("rp2040-hello-usb.elf"), {}, "image-region-missing");
  });
});
