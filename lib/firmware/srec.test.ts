import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { deviceChains, extracted, injected, refusal } from "../../test/support/injection.ts";
import { fromUtf8, utf8 } from "../domain/bytes.ts";
import { encodeChain } from "./chain.ts";
import type { Layout } from "./format.ts";
import { formatSrecord } from "./srec-records.ts";
import { srec } from "./srec.ts";

const { chains, other } = await deviceChains();

const data = (type: number, address: number, ...bytes: number[]) =>
  formatSrecord(type, address, Uint8Array.from(bytes));
const END = "S70500000000FA";
const file = (...lines: string[]) => utf8(lines.map((line) => line + "\n").join(""));

/** Target memory and counts as a reader that shares nothing with ours sees them. */
function read(image: Uint8Array): { memory: Map<number, number>; data: number; counted: number[] } {
  const memory = new Map<number, number>();
  const counted: number[] = [];
  let records = 0;
  for (const line of fromUtf8(image).split(/\r\n|\n|\r/)) {
    if (line === "") continue;
    const bytes = Buffer.from(line.slice(2), "hex");
    expect(bytes.length, line).toBe(bytes[0]! + 1);
    expect(
      bytes.reduce((sum, byte) => (sum + byte) & 0xff, 0),
      line,
    ).toBe(0xff);
    const type = Number(line[1]);
    if (type === 5 || type === 6) counted.push(bytes.readUIntBE(1, type === 5 ? 2 : 3));
    if (type < 1 || type > 3) continue;
    records++;
    const address = bytes.readUIntBE(1, type + 1);
    bytes.subarray(type + 2, -1).forEach((byte, i) => {
      expect(memory.has(address + i), `address ${address + i} twice`).toBe(false);
      memory.set(address + i, byte);
    });
  }
  return { memory, data: records, counted };
}

const synthetic = fc.record({
  type: fc.constantFrom(1, 2, 3),
  width: fc.constantFrom(1, 16, 32, 250),
  blocks: fc.uniqueArray(
    fc.record({ at: fc.integer({ min: 0, max: 0xf000 }), bytes: fc.uint8Array({ minLength: 1, maxLength: 200 }) }),
    { maxLength: 10, selector: ({ at }) => at >> 8 },
  ),
  sorted: fc.boolean(),
  ending: fc.constantFrom("\n", "\r\n", "\r"),
  header: fc.boolean(),
  count: fc.boolean(),
  lower: fc.boolean(),
});

function build(spec: typeof synthetic extends fc.Arbitrary<infer T> ? T : never): Uint8Array {
  const blocks = spec.sorted ? spec.blocks.toSorted((a, b) => a.at - b.at) : spec.blocks;
  const lines: string[] = [];
  for (const { at, bytes } of blocks) {
    for (let i = 0; i < bytes.length; i += spec.width) {
      lines.push(formatSrecord(spec.type, (at & ~0xff) + i, bytes.subarray(i, i + spec.width)));
    }
  }
  if (spec.count) lines.push(formatSrecord(5, lines.length, new Uint8Array(0)));
  if (spec.header) lines.unshift(formatSrecord(0, 0, utf8("firmware")));
  lines.push(formatSrecord(10 - spec.type, 0x400, new Uint8Array(0)), "");
  const text = lines.join(spec.ending);
  return utf8(spec.lower ? text.toLowerCase().replaceAll("s", "S") : text);
}

describe("srec", () => {
  it("reads blank lines wherever a line behind them happens to end", async () => {
    // "\nS1 03 ..." says 0x10 where a record says its length, which ends 36 characters on.
    const image = file("", data(1, 0).padEnd(35), data(1, 0x10, 1, 2), END);
    expect(image[36]).toBe(0x0a);
    const out = await injected(srec, image, chains[1]!.chain, { offset: 0x4000 });
    expect((await extracted(srec, out)).region).toMatchObject({ offset: 0x4000 });
  });

  it("holds any chain at any free address, with every other line and byte as it was", async () => {
    await fc.assert(
      fc.asyncProperty(
        synthetic,
        fc.nat(5),
        fc.oneof(fc.integer({ min: 0, max: 0x10000 }), fc.integer({ min: 0, max: 0xfffe0000 })),
        fc.nat(300),
        async (spec, n, at, spare) => {
          const image = build(spec);
          const before = read(image);
          const { chain } = chains[n]!;
          const bytes = encodeChain(chain);
          let offset = at;
          for (let i = 0; i < bytes.length + spare; i++) {
            if (before.memory.has(offset + i)) [offset, i] = [offset + i + 1, -1];
          }
          const layout = { offset, length: bytes.length + spare };
          const out = await injected(srec, image, chain, layout);
          const { counted, data: records, memory } = read(out);
          expect(Buffer.from(bytes.map((_, i) => memory.get(offset + i) ?? -1)).equals(Buffer.from(bytes))).toBe(true);
          bytes.forEach((_, i) => memory.delete(offset + i));
          expect(memory).toEqual(before.memory);
          expect(counted).toEqual(before.counted.map(() => records));
          const kept = new Set(fromUtf8(out).split(spec.ending));
          for (const line of fromUtf8(image).split(spec.ending))
            expect(line[1] === "5" || kept.has(line), line).toBe(true);
          expect((await extracted(srec, out)).chainBytes).toEqual(bytes);
          expect(await srec.detect({ size: out.length, read: (o, l) => out.subarray(o, o + l) })).toBe(true);
          expect(await injected(srec, out, chain, { offset }), "a second run changes nothing").toEqual(out);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("uses a wider record where the image's own has no such address, and fits its count into one", async () => {
    const image = file(data(1, 0, ...Array.from({ length: 252 }, () => 1)), "S9030000FC");
    const out = fromUtf8(await injected(srec, image, other.chain, { offset: 0x20000000 }));
    expect(out.match(/^S3/gm)!.length).toBeGreaterThan(5);
    expect(out.endsWith("S9030000FC\n")).toBe(true);
  });

  it("replaces a chain only when told to", async () => {
    const image = file(data(3, 0, 1, 2), data(3, 0x9000, 3), formatSrecord(5, 2, new Uint8Array(0)), END);
    const layout = { offset: 0x1000 };
    const long = await injected(srec, image, chains[5]!.chain, layout);
    await expect(injected(srec, long, other.chain, layout)).rejects.toThrow(refusal("image-holds-other-chain"));
    await expect(injected(srec, long, other.chain, { offset: 0x4000 })).rejects.toThrow(
      refusal("image-holds-other-chain"),
    );
    expect(await injected(srec, long, other.chain, { ...layout, replace: true })).toEqual(
      await injected(srec, image, other.chain, layout),
    );
  });

  it.each<[string, string[], Layout, string]>([
    ["a wrong checksum", ["S1050000AABBFF", END], { offset: 0x100 }, "image-invalid"],
    ["a record cut off", [data(1, 0, 1, 2).slice(0, -2), END], { offset: 0x100 }, "image-invalid"],
    ["a missing end", [data(1, 0, 1)], { offset: 0x100 }, "image-invalid"],
    ["something behind the end", [data(1, 0, 1), END, data(1, 5, 1)], { offset: 0x100 }, "image-invalid"],
    ["an address twice", [data(1, 0, 1, 2), data(1, 1, 3), END], { offset: 0x100 }, "image-invalid"],
    ["a wrong count", [data(1, 0, 1), "S5030002FA", END], { offset: 0x100 }, "image-invalid"],
    ["S4", ["S4030000FC", END], { offset: 0x100 }, "image-invalid"],
    ["data past the last address", [data(1, 0xffff, 1, 2), END], { offset: 0x100 }, "image-invalid"],
    ["another format", [":00000001FF"], { offset: 0x100 }, "image-invalid"],
    ["no offset", [data(1, 0, 1), END], {}, "usage"],
    ["a region over code", [data(1, 0x200, 1), END], { offset: 0x100, length: 0x101 }, "image-region-overlap"],
    ["a chain over code", [data(1, 0x200, 1), END], { offset: 0x100 }, "image-region-overlap"],
    ["too small a region", [data(1, 0, 1), END], { offset: 0x100, length: 50 }, "image-region-too-small"],
  ])("refuses %s", async (_what, lines, layout, code) => {
    await expect(injected(srec, file(...lines), other.chain, layout)).rejects.toThrow(refusal(code));
  });
});
