import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { deviceChains, differences, extracted, injected, refusal } from "../../test/support/injection.ts";
import { concatBytes, utf8 } from "../domain/bytes.ts";
import { pemEncode } from "../pki/pem.ts";
import { encodeChain } from "./chain.ts";
import type { Layout } from "./format.ts";
import { raw } from "./raw.ts";
import { bytesReader } from "./reader.ts";

const { chains, other } = await deviceChains();

const flash = (size: number, fill = 0xff) => new Uint8Array(size).fill(fill);

describe("raw", () => {
  it("holds any chain in blank bytes anywhere, inside the file or behind its end, and changes no other byte", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 300 }),
        fc.uint8Array({ maxLength: 300 }),
        fc.nat(5),
        fc.nat(5000),
        fc.constantFrom(0xff, 0x00),
        fc.constantFrom("pem-nul" as const, "der" as const),
        async (head, tail, n, spare, fill, encoding) => {
          const { chain } = chains[n]!;
          const bytes = encodeChain(chain, encoding);
          const before = concatBytes(head, flash(bytes.length + spare, fill), tail);
          const offset = head.length + (spare >> 1);
          const layout = { offset, length: bytes.length, encoding };
          const out = await injected(raw, before, chain, layout);
          expect(Buffer.from(out.subarray(offset, offset + bytes.length)).equals(Buffer.from(bytes))).toBe(true);
          expect(differences(before, out).every((at) => at >= offset && at < offset + bytes.length)).toBe(true);
          expect(await injected(raw, out, chain, layout), "a second run changes nothing").toEqual(out);
          const found = await extracted(raw, out, encoding === "der" ? { offset } : {});
          expect(found).toEqual({ chainBytes: bytes, encoding, region: { offset, length: bytes.length } });

          const behind = await injected(raw, head, chain, { offset: head.length + spare, encoding });
          expect(Buffer.from(behind)).toEqual(Buffer.concat([head, flash(spare), bytes]));
        },
      ),
      { numRuns: 60 },
    );
  });

  it("replaces a chain only when told to, and leaves blank bytes where the longer one was", async () => {
    const layout = { offset: 0x100, length: 0x2000 };
    const long = await injected(raw, flash(0x4000), chains[5]!.chain, layout);
    await expect(injected(raw, long, other.chain, layout)).rejects.toThrow(refusal("image-holds-other-chain"));
    const short = await injected(raw, long, other.chain, { ...layout, replace: true });
    expect(short).toEqual(await injected(raw, flash(0x4000), other.chain, layout));
    await expect(injected(raw, long, other.chain, { offset: 0x3000, replace: true })).rejects.toThrow(
      refusal("image-holds-other-chain"),
    );
  });

  it("finds chains across the pieces it reads in, and tells trust anchors from them", async () => {
    const anchors = utf8(pemEncode("CERTIFICATE", other.root) + "\0");
    for (const offset of [(1 << 20) - 700, (1 << 20) - 1, 1 << 20, (1 << 20) + 1]) {
      const image = flash(3 << 20);
      image.set(anchors, 0x40);
      image.set(anchors, (2 << 20) - 5);
      const out = await injected(raw, image, chains[3]!.chain, { offset });
      expect((await extracted(raw, out)).region!.offset).toBe(offset);
      await expect(injected(raw, out, other.chain, { offset: 0x1000 })).rejects.toThrow(
        refusal("image-holds-other-chain"),
      );
    }
  });

  it.each<[string, Layout, string]>([
    ["no offset", {}, "usage"],
    ["an offset that is no place", { offset: -1 }, "usage"],
    ["a length of nothing", { offset: 0x1000, length: 0 }, "usage"],
    ["PEM without the final NUL", { offset: 0x1000, encoding: "pem" }, "usage"],
    ["a place far behind the end", { offset: 0x2000000 }, "image-region-missing"],
    ["code at the region's start", { offset: 0x10 }, "image-region-overlap"],
    ["code in the region's middle", { offset: 0x100, length: 0xf01 }, "image-region-overlap"],
    ["too small a region", { offset: 0x1001, length: 0x100 }, "image-region-too-small"],
    ["a region of two fillings", { offset: 0x1ff0, length: 0x1000 }, "image-region-overlap"],
  ])("refuses %s", async (_what, layout, code) => {
    const image = flash(0x4000);
    image.set(utf8("code and data of the firmware"), 0);
    image[0x1000] = 0x55;
    image.fill(0, 0x2000);
    const before = image.slice();
    await expect(injected(raw, image, chains[2]!.chain, layout)).rejects.toThrow(refusal(code));
    expect(image).toEqual(before);
  });

  it("refuses an image larger than any flash before it reads it", async () => {
    const huge = { size: 2 ** 33, read: () => expect.unreachable("nothing is read") };
    await expect(raw.open(huge, { offset: 0 })).rejects.toThrow(refusal("input-too-large"));
    await expect(raw.extract(huge)).rejects.toThrow(refusal("input-too-large"));
  });

  it("takes a damaged chain for none", async () => {
    const der = await injected(raw, flash(0x4000), chains[2]!.chain, { offset: 0, encoding: "der" });
    const cut = chains[2]!.chain[0]!.length + 40;
    await expect(raw.extract(bytesReader(der.subarray(0, cut)), { offset: 0 })).rejects.toThrow(
      refusal("image-no-chain"),
    );
    der[chains[2]!.chain[0]!.length + 5]! ^= 0x20;
    await expect(raw.extract(bytesReader(der), { offset: 0 })).rejects.toThrow(refusal("image-no-chain"));
    await expect(raw.extract(bytesReader(flash(100)))).rejects.toThrow(refusal("image-no-chain"));
  });
});
