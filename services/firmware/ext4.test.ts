import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { fromHex, toHex, utf8 } from "../../lib/domain/bytes.ts";
import type { ErrorCode } from "../../lib/domain/error-codes.ts";
import { isCountersignError } from "../../lib/domain/errors.ts";
import { applyPatches, bytesReader, checkWritten, encodeChain, type Layout } from "../../lib/firmware/index.ts";
import { TestChains, type TestChain } from "../../test/support/chains.ts";
import { changed, contents, faults, makePartition } from "../../test/support/ext4.ts";
import { mbedtlsParse } from "../../test/support/mbedtls.ts";
import { ext4 } from "./ext4.ts";

const PATH = "/factory/chain.pem";
const FILES = {
  "etc/version": utf8("7.1\n"),
  "etc/ssl/anchors.pem": new Uint8Array(0),
  "usr/lib/app": new Uint8Array(randomBytes(200_000)),
};

let chains: TestChain[];
let other: TestChain;
let original: Uint8Array;
beforeAll(async () => {
  const cas = await TestChains.create();
  chains = await Promise.all([1, 2, 3, 4, 5, 6].map((length) => cas.leaf(`device-${length}`, length)));
  other = await cas.leaf("other");
  original = makePartition({ files: { ...FILES, "etc/ssl/anchors.pem": encodeChain([other.root], "pem") } });
});

async function inject(image: Uint8Array, chain: readonly Uint8Array[], layout: Layout = {}): Promise<Uint8Array> {
  const template = await ext4.open(bytesReader(image), { path: PATH, ...layout });
  const injection = await template.inject(chain);
  const out = applyPatches(image, injection.patches);
  await checkWritten(template, bytesReader(image), bytesReader(out), injection);
  return out;
}

async function refused(image: Uint8Array, code: ErrorCode, layout: Layout = {}): Promise<void> {
  const before = image.slice();
  await expect(inject(image, chains[2]!.chain, layout)).rejects.toMatchObject({ code });
  expect(Buffer.from(image).equals(before)).toBe(true);
}

const VARIANTS: Record<string, string[]> = {
  "ext4 as mke2fs makes it": ["-t", "ext4"],
  "ext4 of 4 KiB blocks without a journal": ["-t", "ext4", "-b", "4096", "-O", "^has_journal"],
  "ext4 without checksums and 64 bits": ["-t", "ext4", "-O", "^metadata_csum,^64bit"],
  ext3: ["-t", "ext3"],
  ext2: ["-t", "ext2", "-b", "2048"],
};

describe.each(Object.keys(VARIANTS))("%s", (name) => {
  it("holds the chain as e2fsck, debugfs and mbedTLS see it; every other file is as it was", async () => {
    const image = makePartition({ files: FILES, options: VARIANTS[name]! });
    const before = contents(image);
    for (const { chain, root } of [chains[0]!, chains[5]!]) {
      const out = await inject(image, chain);
      expect(faults(out)).toBe("");
      const bytes = encodeChain(chain, "pem");
      const { [PATH]: added, ...rest } = contents(out);
      expect(rest).toEqual(before);
      expect(added).toBe(`100444 0:0 ${bytes.length} ${toHex(bytes)}`);
      const parsed = mbedtlsParse(Buffer.concat([fromHex(added!.split(" ")[3]!), Buffer.of(0)]), root);
      if (!parsed.ok) throw new Error(parsed.why);
      expect(parsed.certificates.map(toHex)).toEqual(chain.map(toHex));
    }
  });
});

describe("ext4", () => {
  it("round trip: any chain, name, mode and encoding; found again without being told where", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(5),
        fc.constantFrom("/chain.pem", "/factory/a b", "/usr/lib/Ünïcode", `/etc/${"x".repeat(255)}`),
        fc.constantFrom(0o400, 0o444, 0o640, 0o777),
        fc.constantFrom("pem", "pem-nul", "der" as const),
        async (which, path, mode, encoding) => {
          const { chain } = chains[which]!;
          const bytes = encodeChain(chain, encoding);
          const out = await inject(original, chain, { path, mode, encoding });
          for (const layout of [{ path }, {}]) {
            expect(await ext4.extract(bytesReader(out), layout)).toEqual({ chainBytes: bytes, encoding, region: null });
          }
          expect(await ext4.detect(bytesReader(out))).toBe(true);
          // The same again gives the same bytes, into the original and into itself.
          expect(Buffer.from(await inject(original, chain, { path, mode, encoding })).equals(out)).toBe(true);
          expect(Buffer.from(await inject(out, chain, { path, mode, encoding })).equals(out)).toBe(true);
        },
      ),
      { numRuns: 12 },
    );
  });

  it("takes an image in a Buffer and leaves it whole, over many injections", async () => {
    const buffer = Buffer.from(original);
    const template = await ext4.open(bytesReader(buffer), { path: PATH });
    const first = await template.inject(chains[0]!.chain);
    for (let i = 0; i < 520; i++) await template.inject(chains[i % 6]!.chain);
    expect(await template.inject(chains[0]!.chain)).toEqual(first);
    expect(buffer.equals(original)).toBe(true);
  });

  it("puts a chain in the place of another device's only when told to", async () => {
    const held = await inject(original, other.chain);
    await refused(held, "image-holds-other-chain");
    const out = await inject(held, chains[5]!.chain, { replace: true, mode: 0o640 });
    expect(faults(out)).toBe("");
    const bytes = encodeChain(chains[5]!.chain, "pem");
    expect(contents(out)).toEqual({ ...contents(held), [PATH]: `100640 0:0 ${bytes.length} ${toHex(bytes)}` });
  });

  it("refuses what it could only harm", async () => {
    await refused(original, "usage", { path: undefined });
    for (const path of ["chain.pem", "/", "/a/", "/a//b", "/a/../b", "/./b", "/a\nb", `/${"x".repeat(256)}`]) {
      await refused(original, "usage", { path });
    }
    for (const mode of [0, 0o1444, 0o044, 1.5]) await refused(original, "usage", { mode });
    await refused(original, "image-region-missing", { path: "/nowhere/chain.pem" });
    await refused(original, "image-region-missing", { path: "/etc/version/chain.pem" });
    await refused(original, "image-region-overlap", { path: "/etc/version" });
    await refused(original, "image-region-overlap", { path: "/usr/lib/app" });
    await refused(original, "image-region-overlap", { path: "/usr/lib" });
    await refused(original, "image-region-overlap", { path: "/factory/link" });
    await refused(original, "image-region-too-small", { length: 1000 });
    await expect(ext4.extract(bytesReader(original), { path: PATH })).rejects.toMatchObject({ code: "image-no-chain" });
  });

  it("refuses a partition that is full when it is opened, without a device's chain", async () => {
    const full = makePartition({
      files: { big: new Uint8Array(randomBytes(830_000)) },
      megabytes: 1,
      options: ["-t", "ext2"],
    });
    await expect(ext4.open(bytesReader(full), { path: PATH, length: 400_000 })).rejects.toMatchObject({
      code: "image-region-too-small",
    });
    expect(faults(await inject(full, chains[0]!.chain, { length: 2000 }))).toBe("");
    // Blocks are left, inodes aren't.
    const files = Object.fromEntries(Array.from({ length: 14 }, (_, i) => [`f${i}`, utf8("x")]));
    const inodes = makePartition({ files, megabytes: 1, options: ["-t", "ext2", "-N", "32"] });
    const free = Array.from({ length: 16 }, (_, i) => `symlink /l${i} f0`);
    await expect(ext4.open(bytesReader(changed(inodes, ...free)), { path: PATH })).rejects.toMatchObject({
      code: "image-region-too-small",
    });
  });

  it("refuses a file system that isn't clean or whole", async () => {
    await refused(changed(original, "set_super_value state 0"), "image-invalid");
    await refused(changed(original, "set_super_value state 3"), "image-invalid");
    await refused(changed(original, "set_super_value error_count 1"), "image-invalid");
    await refused(changed(original, "set_super_value last_orphan 12"), "image-invalid");
    await refused(changed(original, "feature needs_recovery"), "image-invalid");
    await refused(original.subarray(0, original.length - 4096), "image-invalid");
    await refused(original.subarray(0, 1500), "image-invalid");
    const damaged = original.slice();
    damaged[1024 + 200]! ^= 1;
    await refused(damaged, "image-invalid");
    expect(await ext4.detect(bytesReader(new Uint8Array(4096)))).toBe(false);
  });

  it("gathers no more files that may be chains than it can hold", async () => {
    const bytes = new Uint8Array(0xe000).fill(1);
    bytes.set([0x30, 0x82]);
    const files = Object.fromEntries(Array.from({ length: 80 }, (_, i) => [`many/${i}`, bytes]));
    const image = makePartition({ files, megabytes: 8 });
    await expect(ext4.extract(bytesReader(image))).rejects.toMatchObject({ code: "image-chain-ambiguous" });
    await expect(ext4.extract(bytesReader(image), { path: PATH })).rejects.toMatchObject({ code: "image-no-chain" });
  });

  it("gives an answer or a typed refusal for damaged partitions, and goes on with good ones", async () => {
    const small = makePartition({ files: { "etc/version": utf8("1\n") }, megabytes: 1 });
    const damage = fc.array(fc.tuple(fc.nat(200_000), fc.uint8Array({ minLength: 1, maxLength: 64 })), {
      minLength: 1,
      maxLength: 8,
    });
    await fc.assert(
      fc.asyncProperty(damage, fc.boolean(), async (changes, tables) => {
        const image = small.slice();
        // The first 100 KB hold what a file system is made of.
        for (const [at, bytes] of changes) image.set(bytes, tables ? 1024 + (at % 60_000) : at);
        try {
          await inject(image, chains[2]!.chain);
        } catch (error) {
          if (!isCountersignError(error)) throw error;
        }
        await ext4.extract(bytesReader(image)).catch((error: unknown) => {
          if (!isCountersignError(error)) throw error;
        });
      }),
      { numRuns: 60 },
    );
    expect(faults(await inject(small, chains[2]!.chain))).toBe("");
  }, 120_000);
});
