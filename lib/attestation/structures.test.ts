import { generateKeyPairSync } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { dice, spoil } from "../../test/support/fuzz.ts";
import { concatBytes, equalBytes, fromHex } from "../domain/bytes.ts";
import { isCountersignError } from "../domain/errors.ts";
import { sha256 } from "../domain/hash.ts";
import { readCertifyInfo, readSignature } from "./certify-info.ts";
import { kdfa } from "./credential.ts";
import { tpm2b, u16, u32 } from "./cursor.ts";
import { readPublic } from "./public-area.ts";

const p256 = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).publicKey;
const p384 = generateKeyPairSync("ec", { namedCurve: "secp384r1" }).publicKey;
const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey;
const BITS = [1, 2, 4, 5, 6, 7, 10, 11, 16, 17, 18, 19];

const u64 = (value: bigint): Uint8Array => concatBytes(u32(Number(value >> 32n)), u32(Number(value & 0xffffffffn)));

const keys = fc.constantFrom(
  { key: rsa, type: 0x0001, schemes: [0x0010, 0x0014, 0x0015, 0x0016, 0x0017] },
  { key: p256, type: 0x0023, schemes: [0x0010, 0x0018, 0x0019, 0x001a, 0x001c] },
  { key: p384, type: 0x0023, schemes: [0x0010, 0x0018] },
);

/** A TPMT_PUBLIC written by hand, and what it says. */
const publicAreas = fc
  .record({
    key: keys,
    bits: fc.subarray(BITS),
    policy: fc.uint8Array({ maxLength: 64 }),
    nameAlg: fc.constantFrom(0x000b, 0x000c, 0x000d),
    scheme: fc.nat(4),
    hash: fc.constantFrom(0x000b, 0x000c, 0x0004),
    symmetric: fc.boolean(),
  })
  .map(({ key: { key, type, schemes }, bits, policy, nameAlg, scheme: chosen, hash, symmetric }) => {
    const attributes = bits.reduce((all, bit) => all + 2 ** bit, 0);
    const scheme = schemes[chosen % schemes.length]!;
    const withHash = scheme === 0x0010 || scheme === 0x0015 ? [] : [u16(hash)];
    const { n, x, y } = key.export({ format: "jwk" });
    const of = (text: string | undefined) => tpm2b(Buffer.from(text ?? "", "base64url"));
    const curve = key === p384 ? 4 : 3;
    const rest = type === 1 ? [u16(2048), u32(0), of(n)] : [u16(curve), u16(0x0010), of(x), of(y)];
    const bytes = concatBytes(
      ...[u16(type), u16(nameAlg), u32(attributes), tpm2b(policy)],
      ...(symmetric ? [u16(6), u16(128), u16(0x43)] : [u16(0x10)]),
      ...[u16(scheme), ...withHash, ...(scheme === 0x001a ? [u16(7)] : [])],
      ...rest,
    );
    return { bytes, key, nameAlg, policy, attributes: bits.length, scheme };
  });

const infos = fc
  .record({
    signer: fc.uint8Array({ maxLength: 66 }),
    extra: fc.uint8Array({ maxLength: 64 }),
    clock: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    reset: fc.nat(0xffffffff),
    restart: fc.nat(0xffffffff),
    safe: fc.boolean(),
    firmware: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    name: fc.uint8Array({ maxLength: 66 }),
    qualified: fc.uint8Array({ maxLength: 66 }),
  })
  .map((said) => ({
    said,
    bytes: concatBytes(
      ...[fromHex("ff5443478017"), tpm2b(said.signer), tpm2b(said.extra), u64(said.clock), u32(said.reset)],
      ...[u32(said.restart), Uint8Array.of(said.safe ? 1 : 0), u64(said.firmware), tpm2b(said.name)],
      tpm2b(said.qualified),
    ),
  }));

const signatures = fc.oneof(
  fc
    .tuple(fc.uint8Array({ minLength: 1, maxLength: 32 }), fc.uint8Array({ minLength: 1, maxLength: 32 }))
    .map(([r, s]) => concatBytes(u16(0x0018), u16(0x000b), tpm2b(r), tpm2b(s))),
  fc.uint8Array({ maxLength: 512 }).map((s) => concatBytes(u16(0x0014), u16(0x000c), tpm2b(s))),
);

/** Cut short anywhere, or with anything behind it, it is no structure. */
function onlyWhole(bytes: Uint8Array, read: (bytes: Uint8Array) => unknown): void {
  const malformed = expect.objectContaining({ code: "attestation-malformed" });
  for (let length = 0; length < bytes.length; length += 1 + (length >> 4)) {
    expect(() => read(bytes.subarray(0, length))).toThrow(malformed);
  }
  expect(() => read(concatBytes(bytes, Uint8Array.of(0)))).toThrow(malformed);
}

describe("TPM structures", () => {
  it("reads every public area back", () => {
    fc.assert(
      fc.property(publicAreas, ({ bytes, key, nameAlg, policy, attributes, scheme }) => {
        const area = readPublic(bytes, "a key");
        expect(equalBytes(area.spki, key.export({ type: "spki", format: "der" }))).toBe(true);
        expect(area).toMatchObject({ bytes, nameAlg, authPolicy: policy, scheme: { algorithm: scheme } });
        expect(area.attributes.size).toBe(attributes);
        expect(area.name.length).toBe({ 0x0b: 34, 0x0c: 50, 0x0d: 66 }[nameAlg]);
        if (nameAlg === 0x0b) expect(area.name.subarray(2)).toEqual(sha256(bytes));
        onlyWhole(bytes, (some) => readPublic(some, "a key"));
      }),
      { numRuns: 100 },
    );
  });

  it("reads every certification back", () => {
    fc.assert(
      fc.property(infos, ({ said, bytes }) => {
        const info = readCertifyInfo(bytes);
        expect(info).toMatchObject({ qualifiedSigner: said.signer, extraData: said.extra, name: said.name });
        expect(info).toMatchObject({ qualifiedName: said.qualified, firmwareVersion: said.firmware });
        const { clock, reset, restart, safe } = said;
        expect(info.clock).toEqual({ milliseconds: clock, resetCount: reset, restartCount: restart, safe });
        onlyWhole(bytes, readCertifyInfo);
      }),
      { numRuns: 100 },
    );
  });

  it("takes no other magic, type or flag", () => {
    const { bytes } = fc.sample(infos, { numRuns: 1, seed: 1 })[0]!;
    const begin = (hex: string) => concatBytes(fromHex(hex), bytes.subarray(6));
    for (const hex of ["ff5443488017", "ff5443478018", "ff544347801a", "000000008017"]) {
      expect(() => readCertifyInfo(begin(hex))).toThrow(expect.objectContaining({ code: "attestation-malformed" }));
    }
  });

  it("reads every signature back", () => {
    fc.assert(
      fc.property(signatures, (bytes) => {
        const { algorithm } = readSignature(bytes, "p256");
        expect(algorithm).toBe(bytes[1] === 0x18 ? "ecdsa-p256-sha256" : "rsa-pkcs1-sha384");
        onlyWhole(bytes, (some) => readSignature(some, "p256"));
      }),
      { numRuns: 100 },
    );
  });

  it("answers spoiled bytes with a value or a typed refusal", () => {
    const seed = Number(process.env["FUZZ_SEED"] ?? 20261122);
    const samples = [
      ...fc.sample(publicAreas, { numRuns: 8, seed }).map(({ bytes }) => bytes),
      ...fc.sample(infos, { numRuns: 4, seed }).map(({ bytes }) => bytes),
      ...fc.sample(signatures, { numRuns: 4, seed }),
    ];
    const readers = [
      (bytes: Uint8Array) => readPublic(bytes, "a key"),
      readCertifyInfo,
      (bytes: Uint8Array) => readSignature(bytes, "p384"),
    ];
    const roll = dice(seed);
    let refused = 0;
    for (let i = 0; i < 3_000; i++) {
      const bytes = spoil(samples[i % samples.length]!, roll);
      for (const read of readers) {
        try {
          read(bytes);
        } catch (error) {
          if (!isCountersignError(error) || error.kind === "internal") throw error;
          refused++;
        }
      }
    }
    expect(refused).toBeGreaterThan(3_000);
  });

  it("derives as SP 800-108 says, over several blocks", () => {
    const key = fromHex("00".repeat(32));
    const long = kdfa("sha256", key, "STORAGE", new Uint8Array(), 512);
    expect(long.length).toBe(64);
    expect(kdfa("sha256", key, "STORAGE", new Uint8Array(), 128)).not.toEqual(long.subarray(0, 16));
  });
});
