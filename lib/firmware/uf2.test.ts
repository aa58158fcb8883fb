import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { deviceChains, extracted, injected, refusal } from "../../test/support/injection.ts";
import { concatBytes } from "../domain/bytes.ts";
import { encodeChain } from "./chain.ts";
import type { Layout } from "./format.ts";
import { bytesReader } from "./reader.ts";
import { formatBlock } from "./uf2-blocks.ts";
import { uf2 } from "./uf2.ts";

const { chains, other } = await deviceChains();

const RP2040 = 0xe48bff56;

function image(blocks: readonly [address: number, payload: Uint8Array][], family: number | undefined) {
  return concatBytes(
    ...blocks.map(([address, payload], number) =>
      formatBlock(address, payload, { number, count: blocks.length }, family),
    ),
  );
}
const block = (address: number, size = 256): [number, Uint8Array] => [address, new Uint8Array(size).fill(address >> 8)];
const code = (...addresses: number[]) =>
  image(
    addresses.map((address) => block(address)),
    RP2040,
  );

/** Blocks as a reader that shares nothing with ours sees them. */
function read(file: Uint8Array) {
  const bytes = Buffer.from(file);
  return Array.from({ length: file.length / 512 }, (_, i) => {
    const one = bytes.subarray(512 * i, 512 * (i + 1));
    expect([one.readUInt32LE(0), one.readUInt32LE(4), one.readUInt32LE(508)]).toEqual([
      0x0a324655, 0x9e5d5157, 0x0ab16f30,
    ]);
    expect([one.readUInt32LE(20), one.readUInt32LE(24)]).toEqual([i, file.length / 512]);
    const rest = Buffer.concat([one.subarray(0, 20), one.subarray(28)]);
    const size = one.readUInt32LE(16);
    return { address: one.readUInt32LE(12), family: one.readUInt32LE(28), payload: one.subarray(32, 32 + size), rest };
  });
}

describe("uf2", () => {
  it("holds any chain at any free page, and changes nothing of the other blocks but their numbers", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.nat(200), { minLength: 1, maxLength: 40 }),
        fc.constantFrom(64, 256, 476),
        fc.nat(5),
        fc.nat(300),
        fc.constantFrom(undefined, RP2040),
        async (pages, size, n, at, family) => {
          const before = image(
            pages.map((page) => block(size * page, size)),
            family,
          );
          const { chain } = chains[n]!;
          const bytes = encodeChain(chain);
          const count = Math.ceil(bytes.length / size);
          let first = at;
          for (let i = 0; i < count; i++) if (pages.includes(first + i)) [first, i] = [first + i + 1, -1];
          const layout = { offset: first * size, length: count * size };
          const out = await injected(uf2, before, chain, layout);
          const [old, all] = [read(before), read(out)];
          expect(all.slice(0, old.length).map(({ rest }) => rest)).toEqual(old.map(({ rest }) => rest));
          const added = all.slice(old.length);
          expect(added.map(({ address }) => address)).toEqual(added.map((_, i) => layout.offset + i * size));
          expect(added.every((one) => one.family === (family ?? 0) && one.payload.length === size)).toBe(true);
          const written = Buffer.concat(added.map(({ payload }) => payload));
          expect(written.subarray(0, bytes.length).equals(Buffer.from(bytes))).toBe(true);
          expect(written.subarray(bytes.length).every((byte) => byte === 0xff)).toBe(true);
          expect((await extracted(uf2, out)).region!.offset).toBe(layout.offset);
          expect(await uf2.detect(bytesReader(out))).toBe(true);
          expect(await injected(uf2, out, chain, layout), "a second run changes nothing").toEqual(out);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("replaces a chain only when told to, and numbers the blocks anew", async () => {
    const layout = { offset: 0x10001000 };
    const plain = code(0x10000000, 0x10000100, 0x10008000);
    const long = await injected(uf2, plain, chains[5]!.chain, layout);
    await expect(injected(uf2, long, other.chain, layout)).rejects.toThrow(refusal("image-holds-other-chain"));
    const short = await injected(uf2, long, other.chain, { ...layout, replace: true });
    expect(short).toEqual(await injected(uf2, plain, other.chain, layout));
    const back = await injected(uf2, short, chains[5]!.chain, { ...layout, replace: true });
    expect(back).toEqual(long);
    // The chain's blocks before others, as another tool may order them.
    const turned = long.slice();
    turned.set(long.subarray(3 * 512));
    turned.set(long.subarray(0, 3 * 512), long.length - 3 * 512);
    for (let i = 0; i < long.length / 512; i++) new DataView(turned.buffer).setUint32(512 * i + 20, i, true);
    expect(read(await injected(uf2, turned, other.chain, { ...layout, replace: true })).length).toBe(
      short.length / 512,
    );
  });

  const gap = () => concatBytes(code(0, 0x100, 0x200).subarray(0, 512), code(0, 0x100, 0x200).subarray(1024));
  it.each<[string, () => Uint8Array, Layout, string]>([
    ["an image cut off", () => code(0, 0x100).subarray(0, 1000), { offset: 0x1000 }, "image-invalid"],
    ["a block that is missing", gap, { offset: 0x1000 }, "image-invalid"],
    ["a wrong magic number", () => code(0).with(509, 1), { offset: 0x1000 }, "image-invalid"],
    ["a payload too large", () => code(0).with(17, 2), { offset: 0x1000 }, "image-invalid"],
    ["an address twice", () => code(0, 0x80), { offset: 0x1000 }, "image-invalid"],
    ["two families", () => code(0, 0x100).with(512 + 28, 1), { offset: 0x1000 }, "image-invalid"],
    ["no file at all", () => new Uint8Array(0), { offset: 0x1000 }, "image-invalid"],
    ["no offset", () => code(0), {}, "usage"],
    ["an offset within a page", () => code(0), { offset: 0x1080 }, "usage"],
    ["a region over code", () => code(0, 0x1000), { offset: 0x100, length: 0x1000 }, "image-region-overlap"],
    ["too small a region", () => code(0), { offset: 0x1000, length: 0x100 }, "image-region-too-small"],
  ])("refuses %s", async (_what, file, layout, expected) => {
    await expect(injected(uf2, file(), other.chain, layout)).rejects.toThrow(refusal(expected));
  });
});
