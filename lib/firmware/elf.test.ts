import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { deviceChains, injected } from "../../test/support/injection.ts";
import { utf8 } from "../domain/bytes.ts";
import type { ErrorCode } from "../domain/error-codes.ts";
import { encodeChain } from "./chain.ts";
import { elf } from "./elf.ts";
import type { Layout } from "./format.ts";
import { bytesReader } from "./reader.ts";

interface Synthetic {
  wide?: boolean;
  little?: boolean;
  /** bytes reserved */
  size?: number;
  blank?: number;
  base?: bigint;
  section?: Partial<Record<"name" | "type" | "flags" | "addressShift" | "offsetShift", number>>;
  type?: number;
  /** the segment that loads everything; false: only what is before the section */
  loads?: boolean;
  copies?: number;
}

const CODE = 0x100;

/** Header, program header, code, the reserved section, section names, section headers. */
function build(given: Synthetic): Uint8Array {
  const { wide = false, little = true, size = 0x1000, blank = 0xff, base = 0x1000_0000n, type = 2 } = given;
  const { loads = true, copies = 1, section = {} } = given;
  const [headerSize, programSize, sectionSize] = wide ? [64, 56, 64] : [52, 32, 40];
  const codeAt = 0x100;
  const reservedAt = codeAt + CODE;
  const names = utf8("\0.text\0.countersign\0.shstrtab\0");
  const namesAt = reservedAt + size;
  const headersAt = namesAt + names.length;
  const count = 3 + copies;
  const out = new Uint8Array(headersAt + count * sectionSize);
  const view = new DataView(out.buffer);
  const u16 = (at: number, value: number) => view.setUint16(at, value, little);
  const u32 = (at: number, value: number) => view.setUint32(at, value, little);
  const word = (at: number, value: number | bigint) =>
    wide ? view.setBigUint64(at, BigInt(value), little) : u32(at, Number(value));

  out.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, little ? 1 : 2, 1]);
  u16(16, type);
  word(wide ? 32 : 28, headerSize);
  word(wide ? 40 : 32, headersAt);
  [headerSize, programSize, 1, sectionSize, count, count - 1].forEach((value, i) =>
    u16((wide ? 52 : 40) + 2 * i, value),
  );

  u32(headerSize, 1);
  word(headerSize + (wide ? 8 : 4), codeAt);
  word(headerSize + (wide ? 16 : 8), base);
  word(headerSize + (wide ? 32 : 16), loads ? CODE + size : CODE);

  out.fill(0x55, codeAt, reservedAt).fill(blank, reservedAt, namesAt).set(names, namesAt);
  const put = (
    i: number,
    name: number,
    kind: number,
    flags: number,
    address: bigint,
    offset: number,
    bytes: number,
  ) => {
    const at = headersAt + i * sectionSize;
    u32(at, name);
    u32(at + 4, kind);
    word(at + 8, flags);
    word(at + (wide ? 16 : 12), address);
    word(at + (wide ? 24 : 16), offset);
    word(at + (wide ? 32 : 20), bytes);
  };
  put(1, 1, 1, 6, base, codeAt, CODE);
  for (let copy = 0; copy < copies; copy++) {
    const offset = reservedAt + (section.offsetShift ?? 0);
    const address = base + BigInt(CODE + (section.addressShift ?? 0));
    put(2 + copy, section.name ?? 7, section.type ?? 1, section.flags ?? 2, address, offset, size);
  }
  put(count - 1, 20, 3, 0, 0n, namesAt, names.length);
  return out;
}

const { chains, other } = await deviceChains();

const inject = (image: Uint8Array, chain: readonly Uint8Array[], layout: Layout = {}) =>
  injected(elf, image, chain, layout);

async function refused(image: Uint8Array, code: ErrorCode, layout: Layout = {}): Promise<void> {
  const before = image.slice();
  await expect(inject(image, chains[2]!.chain, layout)).rejects.toMatchObject({ code });
  expect(image).toEqual(before);
}

describe("elf", () => {
  it("round trip: any chain, class, byte order and size; every byte outside the chain stays", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(5),
        fc.record({
          wide: fc.boolean(),
          little: fc.boolean(),
          size: fc.integer({ min: 0xe00, max: 0x4000 }),
          blank: fc.constantFrom(0, 0xff),
          type: fc.constantFrom(2, 3),
          base: fc.constantFrom(0n, 0x1000_0000n, 0xffff_0000n),
        }),
        fc.constantFrom("pem-nul", "der" as const),
        async (which, shape, encoding) => {
          const image = build(shape.wide ? { ...shape, base: shape.base + 0xffff_ffff_0000_0000n } : shape);
          const { chain } = chains[which]!;
          const bytes = encodeChain(chain, encoding);
          const out = await inject(image, chain, { encoding });
          const expected = image.slice();
          expected.set(bytes, 0x200);
          expect(out).toEqual(expected);
          expect(await elf.extract(bytesReader(out))).toEqual({
            chainBytes: bytes,
            encoding,
            region: { offset: 0x200, length: bytes.length },
          });
          expect(await elf.detect(bytesReader(out))).toBe(true);
          expect(await inject(out, chain, { encoding })).toEqual(out);
          const again = await inject(out, other.chain, { encoding, replace: true });
          expect(again).toEqual(await inject(image, other.chain, { encoding }));
        },
      ),
      { numRuns: 60 },
    );
  });

  it("refuses a section that is absent, not loaded, in use or too small", async () => {
    await refused(build({}), "image-region-missing", { section: ".device_chain" });
    await refused(build({ copies: 2 }), "image-region-missing");
    await refused(build({ type: 1 }), "image-region-missing");
    await refused(build({ section: { type: 8 } }), "image-region-missing");
    await refused(build({ section: { flags: 0 } }), "image-region-missing");
    await refused(build({ section: { flags: 0x802 } }), "image-region-missing");
    await refused(build({ section: { flags: 6 } }), "image-region-overlap");
    await refused(build({ loads: false }), "image-region-missing");
    await refused(build({ section: { addressShift: 16 } }), "image-region-missing");
    await refused(build({ section: { offsetShift: -16, addressShift: -16 } }), "image-region-overlap");
    await refused(build({ section: { offsetShift: 16, addressShift: 16 } }), "image-region-missing");
    await refused(build({ size: 0x100 }), "image-region-too-small");
    await refused(build({}), "image-region-too-small", { length: 0x100 });
    await refused(build({}), "image-region-too-small", { length: 0x2000 });
    await refused(build({}), "usage", { encoding: "pem" });
    const used = build({});
    used[0x900] = 1;
    await refused(used, "image-region-overlap");
    await expect(elf.extract(bytesReader(build({})))).rejects.toMatchObject({ code: "image-no-chain" });
  });

  it("refuses another device's chain, and what isn't a whole ELF file", async () => {
    await refused(await inject(build({}), other.chain), "image-holds-other-chain");
    const good = build({});
    for (const size of [0, 3, 20, 51, 200, 0x300, good.length - 1])
      await refused(good.subarray(0, size), "image-invalid");
    for (const [at, value] of [
      [4, 3],
      [5, 0],
      [46, 1],
      [48, 0],
      [50, 200],
    ] as const) {
      const bad = good.slice();
      bad[at] = value;
      await refused(bad, "image-invalid");
    }
  });
});
