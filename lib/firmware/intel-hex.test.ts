import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { deviceChains, injected, refusal } from "../../test/support/injection.ts";
import { concatBytes, fromUtf8, utf8 } from "../domain/bytes.ts";
import { pemEncode } from "../pki/pem.ts";
import { encodeChain } from "./chain.ts";
import type { Layout } from "./format.ts";
import { formatRecord } from "./hex-records.ts";
import { intelHex } from "./intel-hex.ts";
import { applyPatches } from "./patch.ts";
import { checkWritten } from "./read-back.ts";
import { bytesReader } from "./reader.ts";

const { cas, chains, other } = await deviceChains();

/** Target memory as a reader that shares nothing with ours sees it. */
function memoryOf(hex: Uint8Array): Map<number, number> {
  const memory = new Map<number, number>();
  let base = 0;
  for (const line of fromUtf8(hex).split(/\r\n|\n|\r/)) {
    if (line === "") continue;
    const record = Buffer.from(line.slice(1), "hex");
    expect(
      record.reduce((sum, byte) => (sum + byte) & 0xff, 0),
      line,
    ).toBe(0);
    const [type, data] = [record[3]!, record.subarray(4, -1)];
    if (type === 2) base = data.readUInt16BE() << 4;
    if (type === 4) base = data.readUInt16BE() * 0x10000;
    if (type !== 0) continue;
    data.forEach((byte, i) => {
      const address = base + record.readUInt16BE(1) + i;
      expect(memory.has(address), `address ${address} twice`).toBe(false);
      memory.set(address, byte);
    });
  }
  return memory;
}

const EOF = ":00000001FF\n";
const hex = (...lines: string[]) => utf8(lines.join("\n") + "\n" + EOF);
const data = (offset: number, ...bytes: number[]) => formatRecord(0, offset, Uint8Array.from(bytes));

const block = fc.record({
  page: fc.integer({ min: 0, max: 15 }),
  offset: fc.integer({ min: 0, max: 0xf000 }),
  bytes: fc.uint8Array({ minLength: 1, maxLength: 200 }),
});
const synthetic = fc.record({
  blocks: fc.uniqueArray(block, { maxLength: 12, selector: ({ page, offset }) => `${page}/${offset >> 8}` }),
  width: fc.constantFrom(1, 7, 16, 32, 255),
  ending: fc.constantFrom("\n", "\r\n", "\r"),
  segmented: fc.boolean(),
  skew: fc.constantFrom(0, 3),
  sorted: fc.boolean(),
  lower: fc.boolean(),
  start: fc.boolean(),
  blank: fc.boolean(),
});

function build(spec: typeof synthetic extends fc.Arbitrary<infer T> ? T : never): Uint8Array {
  const key = ({ page, offset }: { page: number; offset: number }) => page * 0x10000 + offset;
  const blocks = spec.sorted ? spec.blocks.toSorted((a, b) => key(a) - key(b)) : spec.blocks;
  const lines: string[] = [];
  let page = 0;
  for (const one of blocks) {
    if (one.page !== page) {
      const value = spec.segmented ? (one.page << 12) - (one.page > 0 ? spec.skew : 0) : one.page;
      lines.push(formatRecord(spec.segmented ? 2 : 4, 0, Uint8Array.of(value >> 8, value & 0xff)));
    }
    page = one.page;
    const offset = (one.offset & ~0xff) + (spec.segmented && one.page > 0 ? 16 * spec.skew : 0);
    for (let at = 0; at < one.bytes.length; at += spec.width) {
      lines.push(formatRecord(0, offset + at, one.bytes.subarray(at, at + spec.width)));
    }
  }
  if (spec.start) lines.push(formatRecord(spec.segmented ? 3 : 5, 0, Uint8Array.of(0, 1, 0xcc, 0xd9)));
  if (spec.blank) lines.push("");
  lines.push(":00000001FF", "");
  const text = lines.join(spec.ending);
  return utf8(spec.lower ? text.toLowerCase() : text);
}

describe("intel-hex", () => {
  it("refuses a file that is made to take memory: lines or gaps without end", async () => {
    const gaps = Array.from({ length: 4 }, (_, page) => [
      formatRecord(4, 0, Uint8Array.of(0, page)),
      ...Array.from({ length: 0x4001 }, (_, i) => data(2 * i, 7)),
    ]).flat();
    await expect(injected(intelHex, hex(...gaps), chains[0]!.chain, { offset: 0x100000 })).rejects.toEqual(
      refusal("image-invalid"),
    );
    const lines = utf8(":0000000000\n".repeat((1 << 20) + 1) + EOF);
    await expect(intelHex.extract(bytesReader(lines))).rejects.toEqual(refusal("image-invalid"));
  });

  it("reads blank lines wherever a line behind them happens to end", async () => {
    // A line's length is said by its second and third character; a blank line has the next line's there.
    const lines = Array.from({ length: 185 }, (_, i) => data(16 * i, ...Array<number>(16).fill(i)));
    const image = hex("", "", ...lines, data(0x2000, ...Array<number>(9).fill(1)));
    expect(image[8171]).toBe(0x0a);
    const out = await injected(intelHex, image, chains[1]!.chain, { offset: 0x4000 });
    expect((await intelHex.extract(bytesReader(out))).region).toMatchObject({ offset: 0x4000 });
  });

  it("holds any chain at any free address, with every other line and byte as it was", async () => {
    await fc.assert(
      fc.asyncProperty(
        synthetic,
        fc.nat(5),
        fc.integer({ min: 0, max: 0xfff00 }),
        fc.nat(300),
        async (spec, n, at, spare) => {
          const image = build(spec);
          const before = memoryOf(image);
          const { chain } = chains[n]!;
          const bytes = encodeChain(chain);
          let offset = at;
          for (let i = 0; i < bytes.length + spare; i++) if (before.has(offset + i)) [offset, i] = [offset + i + 1, -1];

          const out = await injected(intelHex, image, chain, { offset, length: bytes.length + spare });
          const after = memoryOf(out);
          expect(Buffer.from(bytes.map((_, i) => after.get(offset + i) ?? -1))).toEqual(Buffer.from(bytes));
          bytes.forEach((_, i) => after.delete(offset + i));
          expect(after).toEqual(before);

          const [old, now] = [fromUtf8(image), fromUtf8(out)].map((text) => text.split(/(?<=\r\n|\n|\r(?!\n))/));
          let next = 0;
          for (const line of now!) if (line === old![next]) next++;
          expect(next, "the original lines, in their order").toBe(old!.length);
          expect(new Set(fromUtf8(out).match(/\r\n|\n|\r/g)).size).toBe(1);

          const found = await intelHex.extract(bytesReader(out));
          expect(Buffer.from(found.chainBytes)).toEqual(Buffer.from(bytes));
          expect(found.region).toEqual({ offset, length: bytes.length });
          expect(await intelHex.detect(bytesReader(out))).toBe(true);
          expect(await injected(intelHex, out, chain, { offset }), "a second run changes nothing").toEqual(out);
        },
      ),
      { numRuns: 120 },
    );
  }, 120_000);

  it("restores the base that the lines behind the chain rely on", async () => {
    const image = hex(
      formatRecord(2, 0, Uint8Array.of(0x0f, 0xf0)),
      data(0, 1),
      data(0xf000, 5),
      ":0400000500000001F6",
    );
    const out = await injected(intelHex, image, chains[3]!.chain, { offset: 0x10100 });
    expect(memoryOf(out).get(0xff00)).toBe(1);
    expect(memoryOf(out).get(0x1ef00)).toBe(5);
    expect(fromUtf8(out).match(/^:020000020FF0/gm), "once before and once behind the chain").toHaveLength(2);
  });

  it("breaks its lines where a segment ends, whatever their length", async () => {
    const odd = [data(0, ...Array(7).fill(1)), data(7, ...Array(7).fill(2))];
    for (const base of [formatRecord(2, 0, Uint8Array.of(0, 0)), formatRecord(4, 0, Uint8Array.of(0, 0))]) {
      const out = await injected(intelHex, hex(base, ...odd), chains[2]!.chain, { offset: 0x10000 - 500 });
      for (const [, count, at] of fromUtf8(out).matchAll(/^:(..)(....)00/gm)) {
        expect(Number.parseInt(count!, 16) + Number.parseInt(at!, 16)).toBeLessThanOrEqual(0x10000);
      }
    }
  });

  it("replaces a chain only when told to, and leaves nothing of a longer one", async () => {
    const image = hex(data(0, 1, 2, 3), ":04000005000000C136");
    const layout = { offset: 0x8000, length: 0x2000 };
    const long = await injected(intelHex, image, chains[5]!.chain, layout);
    await expect(injected(intelHex, long, other.chain, layout)).rejects.toThrow(refusal("image-holds-other-chain"));
    await expect(injected(intelHex, long, other.chain, { offset: 0x4000 })).rejects.toThrow(
      refusal("image-holds-other-chain"),
    );
    const short = await injected(intelHex, long, other.chain, { ...layout, replace: true });
    const memory = memoryOf(short);
    expect(memory.size).toBe(3 + encodeChain(other.chain).length);
    expect((await intelHex.extract(bytesReader(short))).chainBytes).toEqual(encodeChain(other.chain));
  });

  it("is not confused by trust anchors in the firmware, and says when it can't tell", async () => {
    const anchors = utf8(pemEncode("CERTIFICATE", other.root) + "\0");
    const lines = Array.from({ length: Math.ceil(anchors.length / 16) }, (_, i) =>
      formatRecord(0, 16 * i, anchors.subarray(16 * i, 16 * i + 16)),
    );
    const out = await injected(intelHex, hex(...lines), other.chain, { offset: 0x9000 });
    expect((await intelHex.extract(bytesReader(out))).region!.offset).toBe(0x9000);
    expect((await intelHex.extract(bytesReader(out), { offset: 0 })).chainBytes).toEqual(anchors);

    const twoDevices = await injected(intelHex, hex(data(0, 1)), chains[2]!.chain, { offset: 0x1000 });
    const second = fromUtf8(await injected(intelHex, hex(data(0x1, 1)), other.chain, { offset: 0x5000 }));
    const both = concatBytes(twoDevices.subarray(0, -EOF.length), utf8(second));
    await expect(intelHex.extract(bytesReader(both))).rejects.toThrow(refusal("image-chain-ambiguous"));
    expect((await intelHex.extract(bytesReader(both), { offset: 0x5000 })).chainBytes).toEqual(
      encodeChain(other.chain),
    );
    await expect(intelHex.extract(bytesReader(both), { offset: 0x5001 })).rejects.toThrow(refusal("image-no-chain"));
    await expect(intelHex.extract(bytesReader(hex(data(0, 1))))).rejects.toThrow(refusal("image-no-chain"));
  });

  it.each([
    ["a wrong checksum", () => hex(":0100000001FF"), "image-invalid"],
    ["a cut off line", () => utf8(":020000040"), "image-invalid"],
    ["a missing end of file", () => utf8(data(0, 1, 2, 3) + "\n"), "image-invalid"],
    ["an empty file", () => new Uint8Array(0), "image-invalid"],
    ["something behind the end of file", () => utf8(EOF + data(0, 1) + "\n"), "image-invalid"],
    ["an address written twice", () => hex(data(0, 1, 2), data(1, 2)), "image-invalid"],
    ["an unknown record type", () => hex(formatRecord(10, 0, Uint8Array.of(1))), "image-invalid"],
    ["a base record of the wrong size", () => hex(formatRecord(4, 0, Uint8Array.of(1))), "image-invalid"],
    ["a wrapping segment", () => hex(":020000021000EC", data(0xffff, 1, 2)), "image-invalid"],
    ["data past 4 GiB", () => hex(":02000004FFFFFC", data(0xffff, 1, 2)), "image-invalid"],
    ["letters", () => hex(":0G0000000000"), "image-invalid"],
    ["a comment", () => hex("; firmware"), "image-invalid"],
    ["data where the chain goes", () => hex(data(0x8100, 1)), "image-region-overlap"],
  ])("refuses %s", async (_what, image, code) => {
    await expect(injected(intelHex, image(), other.chain, { offset: 0x8000 })).rejects.toThrow(refusal(code));
  });

  it.each([
    ["no offset", {}, "usage"],
    ["an offset past 4 GiB", { offset: 2 ** 32 }, "usage"],
    ["a negative offset", { offset: -1 }, "usage"],
    ["an empty region", { offset: 0, length: 0 }, "usage"],
    ["a region past 4 GiB", { offset: 2 ** 32 - 4, length: 8 }, "usage"],
    ["too small a region", { offset: 0x8000, length: 64 }, "image-region-too-small"],
    ["too little memory below 4 GiB", { offset: 2 ** 32 - 64 }, "image-region-too-small"],
  ])("refuses a layout with %s", async (_what, layout: Layout, code) => {
    await expect(injected(intelHex, hex(data(0, 1)), other.chain, layout)).rejects.toThrow(refusal(code));
  });

  it("says which line is broken", async () => {
    const image = hex(data(0, 1), data(1, 2), ":0100020001FF");
    await expect(intelHex.extract(bytesReader(image))).rejects.toMatchObject({ details: { line: 3 } });
  });

  it("notices a written image that differs anywhere", async () => {
    const image = hex(data(0, 1, 2, 3), data(0x10, 4));
    const template = await intelHex.open(bytesReader(image), { offset: 0x100 });
    const injection = await template.inject(other.chain);
    const good = applyPatches(image, injection.patches);
    const moved = utf8(fromUtf8(good).replace(data(0x10, 4), data(0x11, 4)));
    const wrongChain = applyPatches(image, (await template.inject(chains[2]!.chain)).patches);
    const { length } = injection.region!;
    let twin = other;
    while (twin === other || encodeChain(twin.chain).length !== length) twin = await cas.leaf("device-other", 3);
    const swapped = applyPatches(image, (await template.inject(twin.chain)).patches);
    await expect(template.readBack(bytesReader(moved), injection)).rejects.toThrow(refusal("read-back-mismatch"));
    for (const bad of [swapped, moved, wrongChain, image, good.subarray(0, -1), concatBytes(good, utf8("\n"))]) {
      await expect(checkWritten(template, bytesReader(image), bytesReader(bad), injection)).rejects.toThrow(
        refusal("read-back-mismatch"),
      );
    }
  });
});
