import fc from "fast-check";
import { crc32 as zlibCrc32 } from "node:zlib";
import { describe, expect, it } from "vitest";
import { deviceChains, refusal } from "../../test/support/injection.ts";
import { utf8 } from "../domain/bytes.ts";
import { encodeChain } from "./chain.ts";
import { crc32 } from "./crc32.ts";
import { espSecureCert } from "./esp-secure-cert.ts";
import { erasedPartition } from "./esp-tlv.ts";
import type { Layout } from "./format.ts";
import { applyPatches } from "./patch.ts";
import { checkWritten } from "./read-back.ts";
import { bytesReader } from "./reader.ts";

const { chains, other } = await deviceChains();

async function inject(image: Uint8Array, chain: readonly Uint8Array[], layout: Layout = {}): Promise<Uint8Array> {
  const template = await espSecureCert.open(bytesReader(image), layout);
  const injection = await template.inject(chain);
  const out = applyPatches(image, injection.patches);
  await checkWritten(template, bytesReader(image), bytesReader(out), injection);
  return out;
}

/** An entry written without our code. */
function entry(type: number, data: Uint8Array, flags = 0): Buffer {
  const head = Buffer.from([0x11, 0xba, 0x5e, 0xba, flags, 0, 0, 0, type, 0, data.length & 0xff, data.length >> 8]);
  const padded = Buffer.concat([head, data, Buffer.alloc((16 - (data.length % 16)) % 16)]);
  const sum = Buffer.alloc(4);
  sum.writeUInt32LE(zlibCrc32(padded, 0xffffffff));
  return Buffer.concat([padded, sum]);
}

function partition(...entries: Uint8Array[]): Uint8Array {
  const image = erasedPartition();
  image.set(Buffer.concat(entries));
  return image;
}

describe("crc32", () => {
  it("is zlib's, seed included", () => {
    expect(crc32(utf8("123456789"))).toBe(0xcbf43926);
    expect(crc32(utf8("123456789"), 0xffffffff)).toBe(0xd202d277);
    fc.assert(
      fc.property(fc.uint8Array(), fc.nat(0xffffffff), (bytes, seed) => crc32(bytes, seed) === zlibCrc32(bytes, seed)),
    );
  });
});

describe("esp-secure-cert", () => {
  it("holds any chain behind any other entries, in any size of partition that has room", async () => {
    const others = fc.array(
      fc.record({
        type: fc.constantFrom(0, 2, 5, 6, 51, 55),
        data: fc.uint8Array({ maxLength: 100 }),
        flags: fc.constantFrom(0, 8, 0x80),
      }),
      { maxLength: 6 },
    );
    await fc.assert(
      fc.asyncProperty(others, fc.nat(5), fc.constantFrom(0x2000, 0x3000, 0xf000), async (list, n, size) => {
        const image = erasedPartition(size);
        const before = Buffer.concat(list.map(({ type, data, flags }) => entry(type, data, flags)));
        image.set(before);
        const { chain } = chains[n]!;
        const bytes = encodeChain(chain);
        const out = await inject(image, chain);
        const expected = erasedPartition(size);
        expected.set(Buffer.concat([before, entry(1, bytes)]));
        expect(Buffer.from(out).equals(Buffer.from(expected))).toBe(true);
        const found = await espSecureCert.extract(bytesReader(out));
        expect(Buffer.from(found.chainBytes).equals(Buffer.from(bytes))).toBe(true);
        expect(found.region!.offset).toBe(before.length);
        expect(await espSecureCert.detect(bytesReader(out))).toBe(true);
        expect(await inject(out, chain)).toEqual(out);
      }),
      { numRuns: 100 },
    );
  });

  it("replaces a chain only when told to", async () => {
    const long = await inject(partition(entry(6, new Uint8Array(40))), chains[5]!.chain);
    await expect(inject(long, other.chain)).rejects.toThrow(refusal("image-holds-other-chain"));
    const short = await inject(long, other.chain, { replace: true });
    expect(Buffer.from(short).equals(partition(entry(6, new Uint8Array(40)), entry(1, encodeChain(other.chain))))).toBe(
      true,
    );
    expect(await inject(short, chains[5]!.chain, { replace: true })).toEqual(long);
  });

  it("never moves or cuts off the entries behind a chain", async () => {
    const image = partition(entry(1, encodeChain(chains[5]!.chain)), entry(0, utf8("a CA")));
    await expect(inject(image, other.chain, { replace: true })).rejects.toThrow(refusal("image-region-overlap"));
  });

  it("takes the last device certificate, as the chip does, and adds none to several", async () => {
    const image = partition(entry(1, encodeChain(other.chain)), entry(1, encodeChain(chains[0]!.chain)));
    expect((await espSecureCert.extract(bytesReader(image))).chainBytes).toEqual(encodeChain(chains[0]!.chain));
    await expect(inject(image, chains[1]!.chain, { replace: true })).rejects.toThrow(
      refusal("image-holds-other-chain"),
    );
  });

  const chain = () => encodeChain(other.chain);
  const flipped = (image: Uint8Array, at: number) => image.with(at, image[at]! ^ 1);
  it.each([
    ["a flipped bit in the data", () => flipped(partition(entry(1, chain())), 200), "image-invalid"],
    ["a flipped bit in the CRC", () => flipped(partition(entry(0, utf8("x"))), 29), "image-invalid"],
    ["an entry that is cut off", () => partition(entry(1, chain())).subarray(0, 1024), "image-invalid"],
    ["a header that is cut off", () => entry(1, chain()).subarray(0, 8), "image-invalid"],
    ["an empty file", () => new Uint8Array(0), "image-invalid"],
    ["something else", () => new Uint8Array(0x2000), "image-invalid"],
    ["more than the chip's 64 KiB", () => erasedPartition(0x10000), "input-too-large"],
    ["data behind the last entry", () => flipped(partition(entry(0, utf8("x"))), 0x100), "image-region-overlap"],
    ["a sealed partition", () => partition(entry(0, utf8("x")), entry(9, new Uint8Array(32))), "image-region-overlap"],
    ["too small a partition", () => erasedPartition(0x400), "image-region-too-small"],
  ])("refuses %s", async (_what, image, code) => {
    await expect(inject(image(), chains[2]!.chain)).rejects.toThrow(refusal(code));
  });

  it("refuses layouts that a partition can't take", async () => {
    await expect(inject(erasedPartition(), other.chain, { offset: 0x100 })).rejects.toThrow(refusal("usage"));
    await expect(inject(erasedPartition(), other.chain, { length: 0x3000 })).rejects.toThrow(
      refusal("image-region-too-small"),
    );
    await expect(inject(erasedPartition(), other.chain, { length: 0x200 })).rejects.toThrow(
      refusal("image-region-too-small"),
    );
  });

  it("says no to a partition without a device certificate", async () => {
    for (const image of [erasedPartition(), partition(entry(0, utf8("x"))), partition(entry(1, utf8("no chain")))]) {
      await expect(espSecureCert.extract(bytesReader(image))).rejects.toThrow(refusal("image-no-chain"));
    }
  });
});
