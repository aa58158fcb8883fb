import fc from "fast-check";
import { crc32 as zlibCrc32 } from "node:zlib";
import { describe, expect, it } from "vitest";
import { TestChains } from "../../test/support/chains.ts";
import { deviceChains, extracted, injected, refusal } from "../../test/support/injection.ts";
import { utf8 } from "../domain/bytes.ts";
import { encodeChain } from "./chain.ts";
import { espNvs } from "./esp-nvs.ts";
import type { Layout } from "./format.ts";
import { NvsWriter, parseNvs } from "./nvs-pages.ts";
import { bytesReader } from "./reader.ts";

const { chains, other } = await deviceChains();
const longest = await (await TestChains.create(9)).leaf("device-9", 9);

const erased = (pages = 6) => new Uint8Array(4096 * pages).fill(0xff);
const WHERE = { namespace: "factory", key: "chain" };

interface Written {
  pages: { state: number; sequence: number }[];
  values: Record<string, Buffer>;
}

/** Values by "namespace/key" as a reader that shares nothing with ours sees them. */
function read(file: Uint8Array): Written {
  const bytes = Buffer.from(file);
  const crc = (...parts: Buffer[]) => zlibCrc32(Buffer.concat(parts), 0xffffffff);
  const names: Record<number, string> = {};
  const chunks: Record<string, Buffer> = {};
  const values: Written["values"] = {};
  const pages = [];
  for (let at = 0; at < bytes.length; at += 4096) {
    const page = bytes.subarray(at, at + 4096);
    if (page.every((byte) => byte === 0xff)) continue;
    expect(crc(page.subarray(4, 28))).toBe(page.readUInt32LE(28));
    pages.push({ state: page.readUInt32LE(0), sequence: page.readUInt32LE(4) });
    for (let i = 0; i < 126; i++) {
      const bits = (page[32 + (i >> 2)]! >> (2 * (i & 3))) & 3;
      const entry = page.subarray(64 + 32 * i, 96 + 32 * i);
      if (bits === 3) expect(entry.every((byte) => byte === 0xff)).toBe(true);
      if (bits !== 2) continue;
      expect(crc(entry.subarray(0, 4), entry.subarray(8))).toBe(entry.readUInt32LE(4));
      const key = entry.toString("ascii", 8, 24).replace(/\0+$/, "");
      const size = entry.readUInt16LE(24);
      const data = page.subarray(96 + 32 * i, 96 + 32 * i + size);
      if (entry[1] === 1 && entry[0] === 0) names[entry[24]!] = key;
      if (entry[1] === 0x21 || entry[1] === 0x42) expect(crc(data)).toBe(entry.readUInt32LE(28));
      if (entry[1] === 0x21) values[`${names[entry[0]!]}/${key}`] = data;
      if (entry[1] === 0x42) chunks[`${entry[0]}/${key}/${entry[3]}`] = data;
      if (entry[1] === 0x48) {
        const parts = Array.from({ length: entry[28]! }, (_, n) => chunks[`${entry[0]}/${key}/${entry[29]! + n}`]!);
        const whole = Buffer.concat(parts);
        expect(whole.length).toBe(entry.readUInt32LE(24));
        values[`${names[entry[0]!]}/${key}`] = whole;
      }
      i += entry[2]! - 1;
    }
  }
  return { pages, values };
}

/** A partition with other items, some of them erased again. */
function provisioned(pages: number, items: readonly { key: string; data: Uint8Array; blob: boolean }[]): Uint8Array {
  let bytes = erased(pages);
  items.forEach(({ blob, data, key }, i) => {
    const nvs = parseNvs(bytes);
    const writer = new NvsWriter(nvs);
    if (i === 0) writer.addNamespace("wifi", 7);
    if (blob) writer.addBlob(7, key, data);
    else writer.addString(7, key, data);
    if (i % 3 === 2) for (const item of nvs.items.filter((one) => one.key === items[i - 1]!.key)) writer.erase(item);
    bytes = writer.bytes.slice();
  });
  return bytes;
}

const item = fc.record({
  key: fc.stringMatching(/^[a-z]{1,15}$/),
  data: fc.uint8Array({ minLength: 1, maxLength: 1500 }),
  blob: fc.boolean(),
});

describe("esp-nvs", () => {
  it("holds any chain beside any other items, as a blob or a string, in any size of partition that has room", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(item, { maxLength: 8, selector: ({ key }) => key }),
        fc.nat(5),
        fc.constantFrom("blob" as const, "string" as const),
        fc.constantFrom("pem-nul" as const, "der" as const),
        fc.integer({ min: 7, max: 9 }),
        async (items, n, type, encoding, pages) => {
          const before = provisioned(pages, items);
          const { chain } = chains[type === "string" ? Math.min(n, 3) : n]!;
          const form = type === "string" ? "pem-nul" : encoding;
          const layout: Layout = { ...WHERE, type, encoding: form };
          const bytes = encodeChain(chain, form);
          const out = await injected(espNvs, before, chain, layout);
          const { pages: used, values } = read(out);
          expect(values["factory/chain"]).toEqual(Buffer.from(bytes));
          expect({ ...values, "factory/chain": undefined }).toEqual({
            ...read(before).values,
            "factory/chain": undefined,
          });
          expect(used.filter(({ state }) => state === 0xfffffffe)).toHaveLength(1);
          expect(used.length).toBeLessThan(pages);
          for (const [at, byte] of out.entries())
            if ((byte & ~before[at]!) !== 0) expect.unreachable("flash only clears bits");
          expect((await extracted(espNvs, out)).chainBytes).toEqual(bytes);
          expect((await extracted(espNvs, out, WHERE)).chainBytes).toEqual(bytes);
          expect(await espNvs.detect(bytesReader(out))).toBe(true);
          expect(await injected(espNvs, out, chain, layout), "a second run changes nothing").toEqual(out);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("replaces a chain only when told to, wherever the old one lies", async () => {
    const first = await injected(espNvs, erased(), chains[5]!.chain, WHERE);
    await expect(injected(espNvs, first, other.chain, WHERE)).rejects.toThrow(refusal("image-holds-other-chain"));
    const elsewhere = { namespace: "factory", key: "second", replace: true };
    await expect(injected(espNvs, first, other.chain, elsewhere)).rejects.toThrow(refusal("image-holds-other-chain"));
    for (const type of ["blob", "string"] as const) {
      const second = await injected(espNvs, first, other.chain, { ...WHERE, type, replace: true });
      expect(read(second).values).toEqual({ "factory/chain": Buffer.from(encodeChain(other.chain)) });
    }
  });

  it("leaves one page erased, and says when that leaves no room", async () => {
    await expect(injected(espNvs, erased(3), chains[5]!.chain, WHERE)).resolves.toBeDefined();
    const full = provisioned(3, [{ key: "a", data: new Uint8Array(7000), blob: true }]);
    await expect(injected(espNvs, full, chains[2]!.chain, WHERE)).rejects.toThrow(refusal("image-region-too-small"));
  });

  const spoiled = (at: number, xor: number) => () => {
    const bytes = provisioned(6, [
      { key: "ssid", data: utf8("a network\0"), blob: false },
      { key: "cal", data: utf8("calibration"), blob: true },
    ]);
    bytes[at]! ^= xor;
    return bytes;
  };
  const encrypted = () => {
    const bytes = spoiled(0, 0)();
    for (let at = 64; at < 4096; at++) if (bytes[at] !== 0xff) bytes[at]! ^= 0x5a;
    return bytes;
  };
  it.each<[string, () => Uint8Array, Layout, string]>([
    ["an image cut off", () => erased().subarray(0, 20000), WHERE, "image-invalid"],
    ["two pages", () => erased(2), WHERE, "image-invalid"],
    ["no NVS at all", () => new Uint8Array(16384), WHERE, "image-invalid"],
    ["a page's wrong checksum", spoiled(10, 1), WHERE, "image-invalid"],
    ["an entry's wrong checksum", spoiled(64 + 32 + 10, 1), WHERE, "image-invalid"],
    ["data's wrong checksum", spoiled(64 + 64 + 1, 1), WHERE, "image-invalid"],
    ["a page that was being moved", spoiled(0, 0x06), WHERE, "image-invalid"],
    ["data behind the last entry", spoiled(4000, 1), WHERE, "image-invalid"],
    ["encrypted entries", encrypted, WHERE, "image-encrypted"],
    [
      "other data under the key",
      spoiled(0, 0),
      { namespace: "wifi", key: "ssid", replace: true },
      "image-region-overlap",
    ],
    ["no namespace", erased, { key: "chain" }, "usage"],
    ["a key that is too long", erased, { ...WHERE, key: "a".repeat(16) }, "usage"],
    ["a string of DER", erased, { ...WHERE, type: "string", encoding: "der" }, "usage"],
    ["a string that is too long", erased, { ...WHERE, type: "string" }, "image-region-too-small"],
  ])("refuses %s", async (_what, file, layout, code) => {
    await expect(injected(espNvs, file(), longest.chain, layout)).rejects.toThrow(refusal(code));
  });
});
