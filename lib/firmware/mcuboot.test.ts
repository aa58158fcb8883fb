import { createHash, generateKeyPairSync, sign } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { deviceChains, injected } from "../../test/support/injection.ts";
import { concatBytes, toHex } from "../domain/bytes.ts";
import type { ErrorCode } from "../domain/error-codes.ts";
import type { Signer } from "../domain/signing.ts";
import { encodeChain } from "./chain.ts";
import type { Layout } from "./format.ts";
import { mcuboot } from "./mcuboot.ts";
import { encodeProtected, encodeUnprotected, parseMcuboot, TLV, type Tlv } from "./mcuboot-image.ts";
import { applyPatches } from "./patch.ts";
import { checkWritten } from "./read-back.ts";
import { bytesReader } from "./reader.ts";

const MAGIC = [0x77c295f3, 0x60d2ef7f, 0x3552500f, 0x2cb67980];
const sha = (bytes: Uint8Array) => new Uint8Array(createHash("sha256").update(bytes).digest());

function newSigner(): Signer {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return {
    spki: new Uint8Array(publicKey.export({ type: "spki", format: "der" })),
    algorithm: "ecdsa-p256-sha256",
    sign: async (message) => new Uint8Array(sign("sha256", message, privateKey)),
  };
}

interface Synthetic {
  headerSize?: number;
  payload?: Uint8Array;
  flags?: number;
  protectedTlvs?: Tlv[];
  tlvs?: Tlv[];
  /** slot size: padded with FF, MCUboot's magic at the end */
  slot?: number | undefined;
}

function build({ headerSize = 512, payload = new Uint8Array(600).fill(5), flags = 0, ...rest }: Synthetic): Uint8Array {
  const { protectedTlvs = [], tlvs = [], slot } = rest;
  const area = protectedTlvs.length > 0 ? encodeProtected(protectedTlvs) : new Uint8Array(0);
  const header = new Uint8Array(headerSize);
  const view = new DataView(header.buffer);
  view.setUint32(0, 0x96f3b83d, true);
  view.setUint16(8, headerSize, true);
  view.setUint16(10, area.length, true);
  view.setUint32(12, payload.length, true);
  view.setUint32(16, flags, true);
  const covered = concatBytes(header, payload, area);
  const image = concatBytes(covered, encodeUnprotected([{ type: TLV.sha256, value: sha(covered) }, ...tlvs]));
  if (slot === undefined) return image;
  const padded = new Uint8Array(slot).fill(0xff);
  padded.set(image);
  MAGIC.forEach((word, i) => new DataView(padded.buffer).setUint32(slot - 16 + 4 * i, word));
  return padded;
}

const signer = newSigner();
const { chains, other } = await deviceChains();

const inject = (image: Uint8Array, chain: readonly Uint8Array[], layout: Layout = {}) =>
  injected(mcuboot, image, chain, layout, signer);

async function refused(image: Uint8Array, code: ErrorCode, layout: Layout = {}): Promise<void> {
  const before = image.slice();
  await expect(inject(image, chains[2]!.chain, layout)).rejects.toMatchObject({ code });
  expect(image).toEqual(before);
}

const tlv = fc.record({ type: fc.integer({ min: 0x50, max: 0x5f }), value: fc.uint8Array({ maxLength: 40 }) });

describe("mcuboot", () => {
  it("round trip: any chain, header, payload, TLVs and slot; all else stays, the new digest and signature hold", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(5),
        fc.integer({ min: 32, max: 1024 }),
        fc.uint8Array({ maxLength: 2000 }),
        fc.array(tlv, { maxLength: 3 }),
        fc.array(tlv, { maxLength: 2 }),
        fc.option(fc.integer({ min: 0x3800, max: 0x8000 }), { nil: undefined }),
        fc.constantFrom("der", "pem-nul", "pem" as const),
        async (which, headerSize, payload, protectedTlvs, tlvs, slot, encoding) => {
          const image = build({ headerSize, payload, protectedTlvs, tlvs, slot });
          const { chain } = chains[which]!;
          const out = await inject(image, chain, { encoding });
          const bodySize = headerSize + payload.length;
          expect(out.subarray(0, 10)).toEqual(image.subarray(0, 10));
          expect(out.subarray(12, bodySize)).toEqual(image.subarray(12, bodySize));
          if (slot !== undefined) {
            expect(out.length).toBe(slot);
            expect(out.subarray(slot - 3136)).toEqual(image.subarray(slot - 3136));
          }
          const parsed = parseMcuboot(out);
          const bytes = encodeChain(chain, encoding);
          expect(parsed.protectedTlvs).toEqual([...protectedTlvs, { type: 0xa1, value: bytes }]);
          expect(parsed.tlvs.map(({ type }) => type)).toEqual([0x10, 0x01, 0x22, ...tlvs.map(({ type }) => type)]);
          expect(toHex(parsed.tlvs[1]!.value)).toBe(toHex(sha(signer.spki)));
          const found = await mcuboot.extract(bytesReader(out));
          expect(found.chainBytes).toEqual(bytes);
          expect(found.encoding).toBe(encoding);
          expect(await mcuboot.detect(bytesReader(out))).toBe(true);
          // The same chain again changes nothing.
          expect(await inject(out, chain, { encoding })).toEqual(out);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("puts its own signer into the boot record and the whole key where the image has one", async () => {
    const old = new Uint8Array(32).fill(0xee);
    const record = concatBytes(
      Uint8Array.of(0xa3, 0x01, 0x63, 0x53, 0x50, 0x45, 0x05, 0x58, 0x20),
      old,
      Uint8Array.of(0x02, 0x58, 0x20),
      new Uint8Array(32),
    );
    const image = build({
      protectedTlvs: [
        { type: 0x50, value: Uint8Array.of(1, 0, 0, 0) },
        { type: TLV.bootRecord, value: record },
      ],
      tlvs: [{ type: TLV.publicKey, value: new Uint8Array(91) }],
    });
    const parsed = parseMcuboot(await inject(image, chains[2]!.chain));
    const expected = record.slice();
    expected.set(sha(signer.spki), 9);
    expect(parsed.protectedTlvs[1]!.value).toEqual(expected);
    expect(parsed.tlvs.find(({ type }) => type === TLV.publicKey)!.value).toEqual(signer.spki);
    for (const bad of [record.subarray(0, -1), Uint8Array.of(0xa0), concatBytes(record, Uint8Array.of(0))]) {
      await refused(build({ protectedTlvs: [{ type: TLV.bootRecord, value: bad }] }), "image-invalid");
    }
  });

  it("leaves a template in a Buffer as it is", async () => {
    const buffer = Buffer.from(build({ slot: 0x6000 }));
    const before = Uint8Array.from(buffer);
    const reader = { size: buffer.length, read: (at: number, length: number) => buffer.subarray(at, at + length) };
    const template = await mcuboot.open(reader, {}, signer);
    for (const { chain } of chains) await template.inject(chain);
    expect(Uint8Array.from(buffer)).toEqual(before);
  });

  it("takes another device's chain out only when told to, and signs another's image again", async () => {
    const held = await inject(build({ slot: 0x6000 }), other.chain);
    await refused(held, "image-holds-other-chain");
    await refused(held, "image-holds-other-chain", { tag: 0x1a2 });
    const replaced = await inject(held, chains[0]!.chain, { replace: true });
    expect((await mcuboot.extract(bytesReader(replaced))).chainBytes).toEqual(encodeChain(chains[0]!.chain, "der"));
    expect(replaced.length).toBe(held.length);

    const key = newSigner();
    const template = await mcuboot.open(bytesReader(held), {}, key);
    const { patches } = await template.inject(other.chain);
    expect(parseMcuboot(applyPatches(held, patches)).tlvs[1]!.value).toEqual(sha(key.spki));
  });

  it("refuses what it can't sign again without harm", async () => {
    const good = build({ slot: 0x6000 });
    await refused(good.subarray(0, 1000), "image-invalid");
    await refused(build({}).subarray(0, -1), "image-invalid");
    const changed = build({});
    changed[700]! ^= 1;
    await refused(changed, "image-invalid");
    await refused(build({ flags: 4 }), "image-encrypted");
    await refused(build({ flags: 8 }), "image-encrypted");
    await refused(build({ tlvs: [{ type: 0x32, value: new Uint8Array(113) }] }), "image-encrypted");
    await refused(build({ flags: 0x200 }), "image-invalid");
    await refused(build({ tlvs: [{ type: 0x20, value: new Uint8Array(256) }] }), "key-unsupported");
    await refused(build({ tlvs: [{ type: 0x24, value: new Uint8Array(64) }] }), "key-unsupported");
    await refused(build({ slot: 0x1400 }), "image-region-too-small");
    await refused(build({}), "image-region-too-small", { length: 0x1200 });
    await refused(build({ protectedTlvs: [{ type: 0xa1, value: new Uint8Array(9) }] }), "image-region-overlap");
    const twice = { type: 0xa1, value: encodeChain(other.chain, "der") };
    await refused(build({ protectedTlvs: [twice, twice] }), "image-invalid");
    const used = good.slice();
    used[2000] = 0;
    await refused(used, "image-region-overlap");
    await refused(good, "usage", { tag: 0x10 });
    await refused(good, "usage", { tag: 0x1ff });
    await expect((await mcuboot.open(bytesReader(good), {})).inject(other.chain)).rejects.toMatchObject({
      code: "usage",
    });
    const p384 = { ...signer, algorithm: "ecdsa-p384-sha384" as const };
    await expect(mcuboot.open(bytesReader(good), {}, p384)).rejects.toMatchObject({ code: "key-unsupported" });
    await expect(mcuboot.extract(bytesReader(good))).rejects.toMatchObject({ code: "image-no-chain" });
  });

  it("notices an image that was written differently anywhere", async () => {
    const image = build({ slot: 0x6000 });
    const template = await mcuboot.open(bytesReader(image), {}, signer);
    const injection = await template.inject(chains[2]!.chain);
    const written = applyPatches(image, injection.patches);
    const { end } = parseMcuboot(written);
    for (const at of [4, 11, 100, 700, 1200, end - 1, end, written.length - 1]) {
      const bad = written.slice();
      bad[at]! ^= 1;
      await expect(
        checkWritten(template, bytesReader(image), bytesReader(bad), injection),
        String(at),
      ).rejects.toThrow();
    }
  });
});
