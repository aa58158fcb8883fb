import fc from "fast-check";
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { beforeAll, describe, expect, it } from "vitest";
import { TestChains } from "../../test/support/chains.ts";
import { dice } from "../../test/support/fuzz.ts";
import { seedImages, seedSigner, type SeedImage } from "../../test/support/seed-images.ts";
import { concatBytes, utf8 } from "../domain/bytes.ts";
import { isCountersignError } from "../domain/errors.ts";
import { encodeChain } from "./chain.ts";
import { detectFormat, erasedPartition, FIRMWARE_FORMATS, firmwareFormat, type Layout } from "./index.ts";
import { applyPatches } from "./patch.ts";
import { checkWritten } from "./read-back.ts";
import { bytesReader } from "./reader.ts";

/** Whatever comes in: an answer that holds, or a typed refusal; nothing else, soon, and in bounded memory. */

const DAMAGED = 10_000;
/** `FUZZ_SEED=n` runs another sequence. */
const SEED = Number(process.env.FUZZ_SEED ?? 1);

let chain: Uint8Array[];
let other: Uint8Array[];
const signer = seedSigner();
const seeds: SeedImage[] = [];
const answers = new Map<string, { accepted: number; refused: number }>();

beforeAll(async () => {
  const cas = await TestChains.create();
  chain = (await cas.leaf("device-1")).chain;
  other = (await cas.leaf("device-2")).chain;
  for (const seed of seedImages()) {
    const template = await firmwareFormat(seed.format).open(bytesReader(seed.image), seed.layout, signer);
    const { patches } = await template.inject(other);
    seeds.push(seed, { ...seed, image: applyPatches(seed.image, patches), layout: { ...seed.layout, replace: true } });
  }
  expect(new Set(seeds.map(({ format }) => format))).toEqual(new Set(FIRMWARE_FORMATS.map(({ name }) => name)));
});

async function refusable(work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    expect(error.code, "an image we accepted must read back").not.toBe("read-back-mismatch");
    return false;
  }
}

async function attempt(name: string, image: Uint8Array, layouts: readonly Layout[]): Promise<void> {
  const format = firmwareFormat(name);
  const before = createHash("sha256").update(image).digest("hex");
  await refusable(() => format.extract(bytesReader(image)));
  for (const layout of layouts) {
    const accepted = await refusable(async () => {
      const template = await format.open(bytesReader(image), layout, signer);
      const injection = await template.inject(chain);
      const out = applyPatches(image, injection.patches);
      await checkWritten(template, bytesReader(image), bytesReader(out), injection);
    });
    const count = answers.get(name) ?? { accepted: 0, refused: 0 };
    answers.set(name, { ...count, [accepted ? "accepted" : "refused"]: count[accepted ? "accepted" : "refused"] + 1 });
  }
  expect(createHash("sha256").update(image).digest("hex"), "the image stays untouched").toBe(before);
}

/** Against every format, as somebody who doesn't know what an image is would try it. */
async function attemptAll(image: Uint8Array): Promise<void> {
  for (const { name } of FIRMWARE_FORMATS) {
    const { layout } = seeds.find(({ format }) => format === name)!;
    await attempt(name, image, [layout, { ...layout, replace: true }]);
  }
  await refusable(() => detectFormat(bytesReader(image)));
}

describe("a template", () => {
  it("serves one device after the other and stays as it is, read from a Buffer too", async () => {
    for (const { format, image, layout } of seedImages()) {
      const buffer = Buffer.from(image);
      const template = await firmwareFormat(format).open(bytesReader(buffer), layout, signer);
      for (const one of [chain, other, chain]) {
        const injection = await template.inject(one);
        const out = Buffer.from(applyPatches(buffer, injection.patches));
        await checkWritten(template, bytesReader(buffer), bytesReader(out), injection);
        expect((await firmwareFormat(format).extract(bytesReader(out))).chainBytes, format).toEqual(
          injection.chainBytes,
        );
      }
      expect(buffer.equals(image), format).toBe(true);
    }
  });
});

type Roll = ReturnType<typeof dice>;

/** Real images, damaged where their structure is: bytes changed, cut out, doubled, filled, or the end cut off. */
function damage(image: Uint8Array, roll: Roll): Uint8Array {
  let bytes = image;
  for (let n = 1 + roll(3); n > 0; n--) {
    // Most of an image is blank; what is not is worth more.
    const used = bytes.findLastIndex((byte) => byte !== 0xff) + 1;
    const at = roll(roll(4) === 0 ? bytes.length + 1 : used + 1);
    const size = 1 + roll(roll(3) === 0 ? 64 : 4);
    const [head, tail] = [bytes.subarray(0, at), bytes.subarray(at)];
    const noise = Uint8Array.from({ length: size }, () =>
      roll(2) === 0 ? roll(256) : [0, 1, 0x7f, 0x80, 0xff][roll(5)]!,
    );
    bytes = [
      () => concatBytes(head, noise, tail.subarray(size)),
      () =>
        concatBytes(
          head,
          noise.map((byte, i) => (tail[i] ?? 0) ^ (1 << (byte & 7))),
          tail.subarray(size),
        ),
      () => concatBytes(head, tail.subarray(size)),
      () => concatBytes(head, tail.subarray(0, size), tail),
      () => concatBytes(head, noise, tail),
      () => head,
      () => concatBytes(bytes, tail.subarray(0, 4096)),
    ][roll(7)]!();
  }
  return bytes.slice();
}

describe("hostile images", () => {
  it("give an answer or a typed refusal: damaged ones of every format, in bounded memory", async () => {
    const roll = dice(SEED);
    let low = 0;
    for (let n = 0; n < DAMAGED; n++) {
      const { format, image, layout } = seeds[n % seeds.length]!;
      const damaged = damage(image, roll);
      try {
        await attempt(format, damaged, [layout]);
        if (n % 20 === 0) await attemptAll(damaged);
      } catch (cause) {
        throw new Error(`FUZZ_SEED=${SEED}, image ${n} (${format})`, { cause });
      }
      if (n === DAMAGED / 4) low = process.memoryUsage().rss;
    }
    expect(process.memoryUsage().rss - low, "memory grown since the first quarter").toBeLessThan(128 << 20);
    for (const { name } of FIRMWARE_FORMATS) {
      const { accepted, refused } = answers.get(name)!;
      expect(accepted, `${name}: some damage does no harm`).toBeGreaterThan(0);
      expect(refused, `${name}: some is refused`).toBeGreaterThan(100);
    }
  }, 120_000);

  const offset = fc.constantFrom(0, 0x10, 0x7ffe, 0x8000, 0xfff0, 0xffff);
  const bytes = fc.uint8Array({ maxLength: 20 });
  const sum = (parts: readonly number[]) => parts.reduce((a, b) => a + b, 0);
  const line = (start: string, parts: readonly number[]) => start + Buffer.from(parts).toString("hex");
  const hexLine = fc.tuple(fc.nat(6), offset, bytes).map(([type, at, data]) => {
    const parts = [data.length, at >> 8, at & 0xff, type, ...data];
    return line(":", [...parts, -sum(parts) & 0xff]);
  });
  const srecLine = fc.tuple(fc.nat(9), offset, bytes).map(([type, at, data]) => {
    const address = [2, 2, 3, 4, 2, 2, 3, 4, 3, 2][type]!;
    const parts = [address + data.length + 1, ...[0, 0, at >> 8, at & 0xff].slice(4 - address), ...data];
    return line(`S${type}`, [...parts, ~sum(parts) & 0xff]);
  });
  const block = fc.tuple(fc.nat(0x3001), offset, fc.nat(480), fc.nat(3)).map(([flags, at, size, family]) => {
    const one = Buffer.alloc(512, 0x5a);
    [0x0a324655, 0x9e5d5157, flags, at, size, 0, 0, family].forEach((word, i) => one.writeUInt32LE(word, 4 * i));
    one.writeUInt32LE(0x0ab16f30, 508);
    return one;
  });
  /** Entries of NVS with right checksums and any content; namespace 1 is often ours. */
  const nvsEntry = fc.tuple(
    fc.nat(3),
    fc.constantFrom(1, 0x21, 0x41, 0x42, 0x48, 9),
    fc.nat(4),
    fc.nat(3),
    fc.nat(3),
    bytes,
  );
  const nvs = fc.array(nvsEntry, { maxLength: 20 }).map((entries) => {
    const page = Buffer.alloc(4096, 0xff);
    page.writeUInt32LE(0xfffffffe, 0);
    page.writeUInt32LE(0, 4);
    page[8] = 0xfe;
    page.writeUInt32LE(crc32(page.subarray(4, 28), 0xffffffff), 28);
    let at = 0;
    for (const [namespace, type, span, chunk, key, data] of entries) {
      const name = ["chain", "factory", "other", ""][key]!;
      const one = Buffer.alloc(32, 0xff);
      one.set([namespace, type, type === 0x21 || type === 0x42 ? 1 + Math.ceil(data.length / 32) : span, chunk]);
      one.fill(0, 8, 24).write(name, 8);
      one.set(data.subarray(0, 8), 24);
      if (type === 0x21 || type === 0x42) {
        one.writeUInt16LE(data.length, 24);
        one.writeUInt32LE(crc32(data, 0xffffffff), 28);
        page.set(data, 64 + 32 * (at + 1));
      }
      one.writeUInt32LE(crc32(Buffer.concat([one.subarray(0, 4), one.subarray(8)]), 0xffffffff), 4);
      page.set(one, 64 + 32 * at);
      for (let i = at; i < at + Math.max(1, one[2]!) && i < 126; i++) page[32 + (i >> 2)]! ^= 1 << (2 * (i & 3));
      at += Math.max(1, one[2]!);
    }
    return concatBytes(page, new Uint8Array(2 * 4096).fill(0xff));
  });
  const tlv = fc.array(fc.tuple(fc.nat(10), fc.nat(0x20), bytes), { maxLength: 8 }).map((entries) => {
    const parts = entries.map(([type, extra, data]) => {
      const head = Buffer.from([0x11, 0xba, 0x5e, 0xba, extra, 0, 0, 0, type, 0, data.length, 0]);
      const padded = Buffer.concat([head, data, Buffer.alloc((16 - (data.length % 16)) % 16)]);
      const check = Buffer.alloc(4);
      check.writeUInt32LE(crc32(padded, 0xffffffff));
      return Buffer.concat([padded, check]);
    });
    return concatBytes(...parts, new Uint8Array(0x1000).fill(0xff));
  });
  const text = (lines: fc.Arbitrary<string>, end: string) =>
    fc
      .tuple(fc.array(lines, { maxLength: 12 }), fc.boolean())
      .map(([all, ended]) => utf8([...all, ended ? end : ""].join("\n")));
  const blocks = fc.array(block, { maxLength: 5 }).map((all) => {
    all.forEach((one, i) => (one.writeUInt32LE(i, 20), one.writeUInt32LE(all.length, 24)));
    return concatBytes(...all);
  });

  it.each<[string, fc.Arbitrary<Uint8Array>]>([
    ["intel-hex", text(hexLine, ":00000001ff")],
    ["srec", text(srecLine, "S9030000FC")],
    ["uf2", blocks],
    ["esp-nvs", nvs],
    ["esp-secure-cert", tlv],
  ])("give an answer or a typed refusal: %s of the right form with any content", async (name, image) => {
    const { layout } = seeds.find(({ format }) => format === name)!;
    await fc.assert(
      fc.asyncProperty(image, async (one) => attempt(name, one, [layout, { ...layout, replace: true }])),
      { numRuns: 400, ...(process.env.FUZZ_SEED === undefined ? {} : { seed: SEED }) },
    );
  });

  it("give an answer or a typed refusal: any bytes, and chains in odd places", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 400 }), fc.uint8Array({ maxLength: 40 }), async (head, tail) => {
        await attemptAll(concatBytes(head, tail));
        await attemptAll(concatBytes(head, encodeChain(other), tail));
      }),
      { numRuns: 60 },
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
    for (const format of FIRMWARE_FORMATS) {
      await expect(format.extract(huge)).rejects.toMatchObject({
        code: expect.stringMatching(/^(input-too-large|image-invalid)$/),
      });
    }
    expect(read).toBeLessThan(1 << 18);
    for (const image of [new Uint8Array(0), utf8("hello"), erasedPartition(), new Uint8Array(4096)]) {
      await expect(detectFormat(bytesReader(image))).rejects.toMatchObject({ code: "image-unknown-format" });
    }
  });
});
