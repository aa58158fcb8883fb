import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { TestChains } from "../../test/support/chains.ts";
import { concatBytes, utf8 } from "../domain/bytes.ts";
import { isCountersignError } from "../domain/errors.ts";
import { encodeChain } from "./chain.ts";
import { detectFormat, erasedPartition, FIRMWARE_FORMATS, firmwareFormat } from "./index.ts";
import { applyPatches } from "./patch.ts";
import { checkWritten } from "./read-back.ts";
import { bytesReader } from "./reader.ts";

let chain: Uint8Array[];
let otherBytes: Uint8Array;
const seeds: Uint8Array[] = [];

beforeAll(async () => {
  const cas = await TestChains.create();
  chain = (await cas.leaf("device-1")).chain;
  const other = (await cas.leaf("device-2")).chain;
  otherBytes = encodeChain(other);
  const hex = utf8(":020000040001F9\r\n:04001000DEADBEEFB4\r\n:0400000500000000F7\r\n:00000001FF\r\n");
  for (const [name, image] of [
    ["intel-hex", hex],
    ["esp-secure-cert", erasedPartition()],
  ] as const) {
    const template = await firmwareFormat(name).open(
      bytesReader(image),
      name === "intel-hex" ? { offset: 0x8000 } : {},
    );
    seeds.push(image, applyPatches(image, (await template.inject(other)).patches));
  }
});

/** Real images, damaged: bytes changed, cut out, doubled, or cut off. */
const mutation = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  kind: fc.constantFrom("set", "cut", "double", "truncate", "insert"),
  bytes: fc.uint8Array({ minLength: 1, maxLength: 64 }),
});

function mutate(image: Uint8Array, { at, kind, bytes }: typeof mutation extends fc.Arbitrary<infer T> ? T : never) {
  const offset = Math.floor(at * image.length);
  const [head, tail] = [image.subarray(0, offset), image.subarray(offset)];
  if (kind === "set") return concatBytes(head, bytes, tail.subarray(bytes.length));
  if (kind === "cut") return concatBytes(head, tail.subarray(bytes.length));
  if (kind === "double") return concatBytes(head, tail.subarray(0, bytes.length), tail);
  if (kind === "truncate") return head;
  return concatBytes(head, bytes, tail);
}

/** Whatever comes in: an answer that holds, or a typed refusal. */
async function attempt(image: Uint8Array): Promise<void> {
  for (const format of FIRMWARE_FORMATS) {
    try {
      await format.extract(bytesReader(image));
    } catch (error) {
      if (!isCountersignError(error)) throw error;
    }
    for (const layout of [{}, { offset: 0x8000 }, { offset: 0x8000, replace: true }, { offset: 0, replace: true }]) {
      try {
        const template = await format.open(bytesReader(image), layout);
        const injection = await template.inject(chain);
        const out = applyPatches(image, injection.patches);
        await checkWritten(template, bytesReader(image), bytesReader(out), injection);
      } catch (error) {
        if (!isCountersignError(error)) throw error;
        expect(error.code, "an image we accepted must read back").not.toBe("read-back-mismatch");
      }
    }
  }
  await detectFormat(bytesReader(image)).catch((error: unknown) => {
    if (!isCountersignError(error)) throw error;
  });
}

describe("hostile images", () => {
  it("give an answer or a typed refusal: damaged real ones", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(3), fc.array(mutation, { minLength: 1, maxLength: 4 }), async (seed, mutations) => {
        await attempt(mutations.reduce(mutate, seeds[seed]!));
      }),
      { numRuns: 3000 },
    );
  }, 120_000);

  it("give an answer or a typed refusal: lines of the right form with any content", async () => {
    const record = fc
      .tuple(
        fc.integer({ min: 0, max: 6 }),
        fc.constantFrom(0, 0x10, 0x7ffe, 0x8000, 0xfff0, 0xffff),
        fc.uint8Array({ maxLength: 20 }),
      )
      .map(([type, offset, data]) => {
        const bytes = [data.length, offset >> 8, offset & 0xff, type, ...data];
        return ":" + Buffer.from([...bytes, -bytes.reduce((a, b) => a + b, 0) & 0xff]).toString("hex");
      });
    await fc.assert(
      fc.asyncProperty(fc.array(record, { maxLength: 12 }), fc.boolean(), async (lines, ended) => {
        await attempt(utf8([...lines, ended ? ":00000001ff" : ""].join("\n")));
      }),
      { numRuns: 1500 },
    );
  }, 120_000);

  it("give an answer or a typed refusal: any bytes, and chains in odd places", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 400 }), fc.uint8Array({ maxLength: 40 }), async (head, tail) => {
        await attempt(concatBytes(head, tail));
        await attempt(concatBytes(head, otherBytes, tail));
      }),
      { numRuns: 500 },
    );
  });

  it("are no format when they are none, with bounded reads", async () => {
    let read = 0;
    const huge = {
      size: 2 ** 40,
      read: (_offset: number, length: number) => {
        read += length;
        return new Uint8Array(length).fill(0x3a);
      },
    };
    await expect(detectFormat(huge)).rejects.toMatchObject({ code: "image-unknown-format" });
    expect(read).toBeLessThan(1 << 17);
    for (const format of FIRMWARE_FORMATS) {
      await expect(format.extract(huge)).rejects.toMatchObject({ code: "input-too-large" });
    }
    for (const image of [new Uint8Array(0), utf8("hello"), erasedPartition(), new Uint8Array(4096)]) {
      await expect(detectFormat(bytesReader(image))).rejects.toMatchObject({ code: "image-unknown-format" });
    }
  });
});
