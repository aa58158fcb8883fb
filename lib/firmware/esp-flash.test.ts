import fc from "fast-check";
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { deviceChains, differences, extracted, injected, refusal } from "../../test/support/injection.ts";
import { concatBytes } from "../domain/bytes.ts";
import { encodeChain } from "./chain.ts";
import { espFlash } from "./esp-flash.ts";
import { espSecureCert } from "./esp-secure-cert.ts";
import type { Layout } from "./format.ts";
import { bytesReader } from "./reader.ts";

const { chains, other } = await deviceChains();

type Row = [label: string, type: number, subtype: number, offset: number, size: number, flags?: number];
const ROWS: Row[] = [
  ["nvs", 1, 2, 0x9000, 0x4000],
  ["esp_secure_cert", 0x3f, 6, 0xd000, 0x2000],
  ["phy_init", 1, 1, 0xf000, 0x1000],
  ["factory", 0, 0, 0x10000, 0x40000],
];

/** A partition table made without our code. */
function table(rows: readonly Row[]): Buffer {
  const entries = rows.map(([label, type, subtype, offset, size, flags = 0]) => {
    const entry = Buffer.alloc(32);
    entry.set([0xaa, 0x50, type, subtype]);
    entry.writeUInt32LE(offset, 4);
    entry.writeUInt32LE(size, 8);
    entry.write(label, 12, "ascii");
    entry.writeUInt32LE(flags, 28);
    return entry;
  });
  const body = Buffer.concat(entries);
  const sum = Buffer.concat([
    Buffer.from([0xeb, 0xeb]),
    Buffer.alloc(14, 0xff),
    createHash("md5").update(body).digest(),
  ]);
  return Buffer.concat([body, sum, Buffer.alloc(0xc00, 0xff)]).subarray(0, 0xc00);
}

/** Erased flash with a bootloader, a table and an app of bytes that are anything but FF. */
function flash(rows: readonly Row[] = ROWS, tableAt = 0x8000, size = 0x50000): Uint8Array {
  const bytes = new Uint8Array(size).fill(0xff);
  bytes.fill(0xe9, 0x1000, 0x5000);
  bytes.set(table(rows), tableAt);
  bytes.fill(0x42, 0x10000, 0x20000);
  return bytes;
}

describe("esp-flash", () => {
  it("puts any chain into the esp_secure_cert partition wherever it lies, as into a lone one, and nowhere else", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(5),
        fc.integer({ min: 0x21, max: 0x4c }),
        fc.constantFrom(0x2000, 0x3000),
        fc.constantFrom(0x8000, 0x9000, 0xe000),
        async (n, sector, size, tableAt) => {
          const { chain } = chains[n]!;
          const at = sector * 0x1000;
          const image = flash(
            [
              ["app", 0, 0, 0x10000, 0x10000],
              ["certs", 0x3f, 6, at, size],
            ],
            tableAt,
          );
          const lone = await injected(espSecureCert, image.subarray(at, at + size), chain, {});
          const out = await injected(espFlash, image, chain, {});
          expect(Buffer.from(out)).toEqual(Buffer.concat([image.subarray(0, at), lone, image.subarray(at + size)]));
          expect(await espFlash.detect(bytesReader(out))).toBe(true);
          const found = await extracted(espFlash, out);
          expect(found.chainBytes).toEqual(encodeChain(chain));
          expect(found.region!.offset).toBe(at);
          expect(await injected(espFlash, out, chain, { partition: "certs" })).toEqual(out);
        },
      ),
      { numRuns: 25 },
    );
  });

  it("puts a chain into the NVS partition that the layout names", async () => {
    const layout = { partition: "nvs", namespace: "factory", key: "chain" };
    const out = await injected(espFlash, flash(), chains[2]!.chain, layout);
    expect(differences(flash(), out).every((at) => at >= 0x9000 && at < 0xd000)).toBe(true);
    const { chainBytes, region } = await extracted(espFlash, out, { partition: "nvs" });
    expect(chainBytes).toEqual(encodeChain(chains[2]!.chain));
    expect(region!.offset).toBeGreaterThan(0x9000);
  });

  it("replaces a chain only when told to", async () => {
    const first = await injected(espFlash, flash(), chains[4]!.chain, {});
    await expect(injected(espFlash, first, other.chain, {})).rejects.toThrow(refusal("image-holds-other-chain"));
    expect(await injected(espFlash, first, other.chain, { replace: true })).toEqual(
      await injected(espFlash, flash(), other.chain, {}),
    );
  });

  const moved = (at: number, byte: number) => () => flash().with(at, byte);
  const rows =
    (...changed: Row[]) =>
    () =>
      flash(changed);
  const used = () => {
    const bytes = flash();
    bytes.fill(0x55, 0xd000, 0xd100);
    return bytes;
  };
  it.each<[string, () => Uint8Array, Layout, string]>([
    ["a flash without a table", () => new Uint8Array(0x40000).fill(0xff), {}, "image-invalid"],
    ["an image that is only the bootloader", () => flash().subarray(0, 0x5000), {}, "image-invalid"],
    ["a table cut off", () => flash().subarray(0, 0x8030), {}, "image-invalid"],
    ["a table whose MD5 is wrong", moved(0x8005, 1), {}, "image-invalid"],
    ["a table entry without magic", moved(0x8020, 0), {}, "image-invalid"],
    ["partitions that overlap", rows(...ROWS, ["more", 1, 1, 0xe000, 0x1000]), {}, "image-invalid"],
    ["a partition over the table", rows(["certs", 0x3f, 6, 0x8000, 0x2000]), {}, "image-invalid"],
    ["no such partition", () => flash(), { partition: "storage" }, "image-region-missing"],
    ["no partition for certificates", rows(ROWS[0]!, ROWS[3]!), {}, "image-region-missing"],
    ["two of them", rows(...ROWS, ["again", 0x3f, 6, 0x50000, 0x2000]), {}, "image-region-missing"],
    ["one behind the image's end", rows(["certs", 0x3f, 6, 0x4f000, 0x2000]), {}, "image-region-missing"],
    ["an encrypted one", rows(["certs", 0x3f, 6, 0xd000, 0x2000, 1]), {}, "image-encrypted"],
    ["one that is too large for the chip", rows(["certs", 0x3f, 6, 0x30000, 0x10000]), {}, "image-invalid"],
    ["the app's partition", () => flash(), { partition: "factory" }, "image-region-overlap"],
    ["a partition with other data", used, {}, "image-invalid"],
    ["NVS without a key", () => flash(), { partition: "nvs" }, "usage"],
    ["a key for esp_secure_cert", () => flash(), { key: "chain" }, "usage"],
    ["a table where there is none", () => flash(), { offset: 0x9000 }, "image-invalid"],
    ["too small a part of it", () => flash(), { length: 0x200 }, "image-region-too-small"],
  ])("refuses %s", async (_what, image, layout, code) => {
    const bytes = image();
    const before = bytes.slice();
    await expect(injected(espFlash, bytes, other.chain, layout)).rejects.toThrow(refusal(code));
    expect(bytes).toEqual(before);
  });

  it("reads a few KiB of a large flash, not the flash", async () => {
    const small = flash();
    let read = 0;
    const reader = {
      size: 128 << 20,
      read(offset: number, length: number) {
        read += length;
        const bytes = concatBytes(small.subarray(offset, offset + length), new Uint8Array(length).fill(0xff));
        return bytes.subarray(0, length);
      },
    };
    const template = await espFlash.open(reader, {});
    await template.inject(other.chain);
    expect(await espFlash.detect(reader)).toBe(true);
    expect(read).toBeLessThan(0x8000);
  });
});
