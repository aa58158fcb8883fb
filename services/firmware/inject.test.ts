import { createHash, randomUUID } from "node:crypto";
import { closeSync, existsSync, openSync, writeSync } from "node:fs";
import { mkdir, readdir, readFile, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { receipt as receiptSchema } from "../../lib/records/receipt.ts";
import { encodeChain, IMAGE_LAYOUTS } from "../../lib/firmware/index.ts";
import { TestChains, type TestChain } from "../../test/support/chains.ts";
import { firmware, tempDir } from "../../test/support/index.ts";
import { injectBatch, stageBatch, type DeviceChain } from "./inject.ts";
import { HELD_BYTES } from "./image-file.ts";
import { validateLayout } from "./prepared.ts";
import { ensureErasedPartition } from "./templates.ts";

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const made: TestChain[] = [];
let other: TestChain;
let devices: DeviceChain[];
beforeAll(async () => {
  const cas = await TestChains.create();
  for (let i = 1; i <= 5; i++) made.push(await cas.leaf(`device-${i}`));
  other = await cas.leaf("device-9");
  devices = made.map(({ chain, spki }, i) => ({
    deviceId: `device-${i + 1}`,
    lot: "lot-1",
    slot: i + 1,
    chainDer: chain,
    spkiSha256: sha256(spki),
  }));
});

const hex = () => ({
  ...IMAGE_LAYOUTS["microbit-micropython"]!,
  templatePath: firmware("microbit-micropython").path,
  outDir: tempDir("images"),
});

async function filesOf(dir: string): Promise<Record<string, string>> {
  const names = (await readdir(dir, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  const paths = names.map((entry) => join(entry.parentPath, entry.name)).sort();
  return Object.fromEntries(
    await Promise.all(paths.map(async (path) => [path.slice(dir.length + 1), sha256(await readFile(path))])),
  );
}

describe("injectBatch", () => {
  it("gives each device its image and receipt, and the same ones again", async () => {
    const request = hex();
    const before = sha256(await readFile(request.templatePath));
    const results = await injectBatch({ ...request, devices });
    for (const [i, result] of results.entries()) {
      if (!result.ok) throw result.error;
      const image = await readFile(result.imagePath);
      const chain = encodeChain(devices[i]!.chainDer);
      expect(result.imagePath).toBe(join(request.outDir, `device-${i + 1}`, "image.hex"));
      expect(result.receipt).toEqual({
        schema: 1,
        deviceId: `device-${i + 1}`,
        lot: "lot-1",
        slot: i + 1,
        format: "intel-hex",
        original: { path: "firmware/microbit-micropython.hex", sha256: before },
        image: { path: `devices/device-${i + 1}/image.hex`, sha256: sha256(image) },
        region: { offset: 0x3e000, length: chain.length },
        chain: { sha256: sha256(chain), encoding: "pem-nul" },
        readBack: true,
        toolVersion: expect.stringMatching(/^countersign \d+\.\d+\.\d+$/),
      });
      const stored = await readFile(join(request.outDir, `device-${i + 1}`, "receipt.json"));
      expect(Buffer.from(result.receiptBytes).equals(stored)).toBe(true);
      expect(receiptSchema.parse(JSON.parse(stored.toString()))).toEqual(result.receipt);
    }
    const first = await filesOf(request.outDir);
    expect(Object.keys(first)).toHaveLength(10);
    const again = await injectBatch({ ...request, devices: devices.toReversed() });
    expect(again.map((one) => one.ok && one.receipt).toReversed()).toEqual(results.map((one) => one.ok && one.receipt));
    expect(await filesOf(request.outDir)).toEqual(first);
    expect(sha256(await readFile(request.templatePath)), "the template").toBe(before);
  });

  it("goes on past a device that fails, and leaves nothing of it behind", async () => {
    const outDir = tempDir("images");
    const templatePath = join(tempDir("template"), "esp_secure_cert.bin");
    await ensureErasedPartition(templatePath);
    await ensureErasedPartition(templatePath);
    const [one, two, three, four, five] = devices as [DeviceChain, DeviceChain, DeviceChain, DeviceChain, DeviceChain];
    const results = await injectBatch({
      format: "esp-secure-cert",
      layout: {},
      templatePath,
      outDir,
      devices: [
        one,
        { ...two, chainDer: three.chainDer, spkiSha256: undefined },
        { ...three, spkiSha256: four.spkiSha256 },
        { ...four, chainDer: four.chainDer.toReversed() },
        five,
        { ...five, slot: 7 },
        { ...one, deviceId: "../device-1" },
        { deviceId: "device-9", lot: "a lot", slot: 9, chainDer: other.chain },
        { deviceId: "device-9b", lot: "lot-1", slot: 9, chainDer: [Uint8Array.of(0x30, 0)] },
      ],
    });
    expect(results.map((result) => (result.ok ? "ok" : result.error.code))).toEqual([
      "ok",
      "read-back-mismatch",
      "read-back-mismatch",
      "certificate-invalid",
      "ok",
      "input-invalid",
      "device-id-invalid",
      "input-invalid",
      expect.stringMatching(/-invalid$/),
    ]);
    expect(Object.keys(await filesOf(outDir))).toEqual(
      ["device-1", "device-5"].flatMap((id) => [join(id, "image.bin"), join(id, "receipt.json")]),
    );
  });

  it("leaves an image alone that another run made, when the new one is refused", async () => {
    const request = hex();
    await injectBatch({ ...request, devices: devices.slice(0, 1) });
    const before = await filesOf(request.outDir);
    const [bad] = await injectBatch({ ...request, devices: [{ ...devices[0]!, chainDer: other.chain }] });
    expect(bad).toMatchObject({ ok: false, deviceId: "device-1", error: { code: "read-back-mismatch" } });
    expect(await filesOf(request.outDir)).toEqual(before);
  });

  it("refuses a template that holds a chain already, another one than pinned, or none at all", async () => {
    const request = hex();
    const [first] = await injectBatch({ ...request, devices: devices.slice(0, 1) });
    if (!first!.ok) throw first!.error;
    const outDir = tempDir("images");
    const injected = { ...request, templatePath: first!.imagePath, outDir };
    const [second] = await injectBatch({ ...injected, devices: devices.slice(1, 2) });
    expect(second).toMatchObject({ ok: false, error: { code: "image-holds-other-chain" } });
    const pinned = injectBatch({ ...request, templateSha256: "00".repeat(32), devices });
    await expect(pinned).rejects.toMatchObject({ code: "image-invalid" });
    const missing = injectBatch({ ...request, templatePath: join(outDir, "none.hex"), devices });
    await expect(missing).rejects.toMatchObject({ code: "component-missing" });
    expect(await filesOf(outDir)).toEqual({});
  });

  it("checks a layout against its template before any device comes", async () => {
    const request = hex();
    expect((await validateLayout(request)).sha256).toBe(firmware("microbit-micropython").sha256);
    for (const offset of [0, 0x3b880, 0x3b88b, 0x100010c0]) {
      const layout = { offset, length: 0x1000 };
      await expect(validateLayout({ ...request, layout })).rejects.toMatchObject({ code: "image-region-overlap" });
    }
    await expect(validateLayout({ ...request, format: "tarball" })).rejects.toMatchObject({ code: "usage" });
    await expect(validateLayout({ ...request, format: "esp-secure-cert", layout: {} })).rejects.toMatchObject({
      code: "input-too-large",
    });
  });

  it("takes its temporary files away when the disk refuses, and vouches for nothing", async () => {
    const outDir = tempDir("images");
    await mkdir(join(outDir, "device-1"));
    await writeFile(join(outDir, "device-2"), "a file where a folder has to be");
    await expect(injectBatch({ ...hex(), outDir, devices })).rejects.toMatchObject({ code: "component-unreachable" });
    expect(Object.keys(await filesOf(outDir))).toEqual(["device-2"]);
    expect(existsSync(join(outDir, "device-1", "image.hex"))).toBe(false);
  });

  it("tries a chain when the layout is checked, so that what no device would get past is refused then", async () => {
    const templatePath = join(tempDir("template"), "esp_secure_cert.bin");
    await ensureErasedPartition(templatePath);
    const request = { format: "esp-secure-cert", layout: {}, templatePath };
    await expect(validateLayout(request)).resolves.toEqual({ sha256: sha256(await readFile(templatePath)) });
    const held = await injectBatch({ ...request, outDir: tempDir("images"), devices: devices.slice(0, 1) });
    if (!held[0]!.ok) throw held[0]!.error;
    const injected = { ...request, templatePath: held[0]!.imagePath };
    await expect(validateLayout(injected)).rejects.toMatchObject({ code: "image-holds-other-chain" });
    await expect(validateLayout({ ...injected, layout: { replace: true } })).resolves.toBeDefined();
    const small = { ...request, layout: { length: 0x200 } };
    await expect(validateLayout(small)).rejects.toMatchObject({ code: "image-region-too-small" });
    const other = { ...request, layout: { partition: "nvs" } };
    await expect(validateLayout(other)).rejects.toMatchObject({ code: "usage" });
  });

  it("writes an image that it doesn't hold in pieces, in place of blank bytes and behind the end", async () => {
    const size = HELD_BYTES + 4321;
    const template = Buffer.alloc(size, 0x5a).fill(0xff, 0x10000, 0x20000);
    const templatePath = join(tempDir("template"), "flash.bin");
    await writeFile(templatePath, template, { mode: 0o444 });
    const request = { format: "raw", templatePath, outDir: tempDir("images"), devices: devices.slice(0, 2) };
    for (const offset of [0x10000, size, size + 100]) {
      let progress = 0;
      const results = await injectBatch({ ...request, layout: { offset }, onProgress: () => progress++ });
      for (const [i, result] of results.entries()) {
        if (!result.ok) throw result.error;
        const chain = encodeChain(devices[i]!.chainDer);
        const expected = Buffer.alloc(Math.max(size, offset + chain.length), 0xff);
        template.copy(expected);
        expected.set(chain, offset);
        expect((await readFile(result.imagePath)).equals(expected)).toBe(true);
        expect(result.receipt.image.sha256).toBe(sha256(expected));
      }
      expect(progress).toBe(2);
    }
    expect((await readFile(templatePath)).equals(template)).toBe(true);
    await writeFile(join(request.outDir, "device-3"), "no folder");
    const blocked = injectBatch({ ...request, layout: { offset: 0x10000 }, devices: devices.slice(2, 3) });
    await expect(blocked).rejects.toMatchObject({ code: "component-unreachable" });
  });

  it("throws a batch away whose template was written to meanwhile", async () => {
    const templatePath = join(tempDir("template"), "flash.bin");
    await writeFile(templatePath, Buffer.alloc(HELD_BYTES + 1, 0xff));
    const request = { format: "raw", layout: { offset: 0x1000 }, templatePath, outDir: tempDir("images") };
    const batch = injectBatch({
      ...request,
      devices: devices.slice(0, 2),
      onProgress() {
        const file = openSync(templatePath, "r+");
        writeSync(file, "other firmware", 0x200000);
        closeSync(file);
      },
    });
    await expect(batch).rejects.toMatchObject({ code: "image-invalid" });
    expect(await filesOf(request.outDir)).toEqual({});
  });

  it("holds no large image, neither when it is checked nor when it is written", async () => {
    const templatePath = join(tempDir("template"), "flash.bin");
    await writeFile(templatePath, "firmware");
    await truncate(templatePath, 256 << 20);
    const outDir = tempDir("images");
    const peak = () => process.resourceUsage().maxRSS / 1024;
    const before = peak();
    const request = { format: "raw", layout: { offset: 0x100000 }, templatePath };
    await validateLayout(request);
    const [result] = await injectBatch({ ...request, outDir, devices: devices.slice(0, 1) });
    if (!result!.ok) throw result!.error;
    expect(peak() - before, "MB more than before").toBeLessThan(100);
    await rm(outDir, { recursive: true });
  }, 60_000);
});

describe("what a killed attempt left", () => {
  it("goes when the device's next attempt starts, and nothing else does", async () => {
    const request = hex();
    const folder = join(request.outDir, "device-1");
    const neighbour = join(request.outDir, "device-2");
    for (const dir of [folder, neighbour]) await mkdir(dir, { recursive: true });
    const left = (name: string) => `${name}.${randomUUID()}.tmp`;
    const mine = [left("image.hex"), left("image.uf2"), left("receipt.json")];
    const others = ["notes.tmp", left("template"), "image.hex.tmp", `image.hex.${randomUUID()}`];
    const ahead = left("image.hex");
    for (const name of [...mine, ...others, ahead]) await writeFile(join(folder, name), "cut off");
    const minute = 60_000;
    for (const name of mine) await utimes(join(folder, name), new Date(), new Date(Date.now() - minute));
    await utimes(join(folder, ahead), new Date(), new Date(Date.now() + minute));
    const besides = left("image.hex");
    await writeFile(join(neighbour, besides), "of a device that isn't in this batch");
    await injectBatch({ ...request, devices: devices.slice(0, 1) });
    expect((await readdir(folder)).sort()).toEqual([...others, ahead, "image.hex", "receipt.json"].sort());
    expect(await readdir(neighbour)).toEqual([besides]);
  });

  it("leaves alone what an attempt of the same process has in hand", async () => {
    const request = hex();
    const first = await stageBatch({ ...request, devices });
    await new Promise((wake) => setTimeout(wake, 20));
    const second = await stageBatch({ ...request, devices });
    await first.publish(devices.map(({ deviceId }) => deviceId));
    await second.discard();
    for (const { deviceId } of devices) {
      expect((await readdir(join(request.outDir, deviceId))).sort()).toEqual(["image.hex", "receipt.json"]);
    }
  });
});
