import { type KeyObject, generateKeyPairSync, sign } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { SignatureAlgorithm } from "../lib/domain/signing.ts";
import { inside, readWhole, TAG } from "../lib/pki/der.ts";
import { ecdsaSignatureDer } from "./ecdsa.ts";
import { cachedKeyCount, nodeVerify, nodeVerifyAside, nodeVerifyOnceAside } from "./verify.ts";

const PAIRS: Readonly<Record<string, { publicKey: KeyObject; privateKey: KeyObject }>> = {
  p256: generateKeyPairSync("ec", { namedCurve: "P-256" }),
  p384: generateKeyPairSync("ec", { namedCurve: "P-384" }),
  ed25519: generateKeyPairSync("ed25519"),
  rsa: generateKeyPairSync("rsa", { modulusLength: 2048 }),
};
const CASES: readonly [SignatureAlgorithm, string, string | null][] = [
  ["ecdsa-p256-sha256", "p256", "sha256"],
  ["ecdsa-p256-sha384", "p256", "sha384"],
  ["ecdsa-p256-sha512", "p256", "sha512"],
  ["ecdsa-p384-sha256", "p384", "sha256"],
  ["ecdsa-p384-sha384", "p384", "sha384"],
  ["ecdsa-p384-sha512", "p384", "sha512"],
  ["ed25519", "ed25519", null],
  ["rsa-pkcs1-sha256", "rsa", "sha256"],
  ["rsa-pkcs1-sha384", "rsa", "sha384"],
  ["rsa-pkcs1-sha512", "rsa", "sha512"],
];
const spkiOf = (key: KeyObject): Uint8Array => new Uint8Array(key.export({ format: "der", type: "spki" }));
const message = Buffer.from("the message");

describe("nodeVerify", () => {
  it.each(CASES)(
    "%s: accepts its own key's signature, under no other algorithm and with no bit changed",
    (name, key, hash) => {
      const { publicKey, privateKey } = PAIRS[key]!;
      const spki = spkiOf(publicKey);
      const signature = new Uint8Array(sign(hash, message, privateKey));
      expect(nodeVerify({ spki, algorithm: name, message, signature })).toBe(true);
      for (const [other] of CASES) {
        if (other !== name) expect(nodeVerify({ spki, algorithm: other, message, signature })).toBe(false);
      }
      fc.assert(
        fc.property(fc.nat(8 * signature.length - 1), (bit) => {
          const changed = Uint8Array.from(signature);
          changed[bit >> 3]! ^= 1 << (bit & 7);
          return nodeVerify({ spki, algorithm: name, message, signature: changed }) === false;
        }),
      );
      expect(nodeVerify({ spki, algorithm: name, message: Buffer.from("The message"), signature })).toBe(false);
      expect(nodeVerify({ spki, algorithm: name, message, signature: signature.subarray(1) })).toBe(false);
      expect(nodeVerify({ spki, algorithm: name, message, signature: new Uint8Array() })).toBe(false);
    },
  );

  it("refuses a P-256 signature under the P-384 algorithm, and a curve that isn't ours", () => {
    const k1 = generateKeyPairSync("ec", { namedCurve: "secp256k1" });
    const signature = sign("sha256", message, k1.privateKey);
    const spki = spkiOf(k1.publicKey);
    expect(nodeVerify({ spki, algorithm: "ecdsa-p256-sha256", message, signature })).toBe(false);
    const p256 = PAIRS["p256"]!;
    const sha384 = sign("sha384", message, p256.privateKey);
    const wrongPair = { spki: spkiOf(p256.publicKey), algorithm: "ecdsa-p384-sha384" as const };
    expect(nodeVerify({ ...wrongPair, message, signature: sha384 })).toBe(false);
  });

  it("answers false, never throws, on any bytes", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 200 }),
        fc.uint8Array({ maxLength: 200 }),
        fc.constantFrom(...CASES.map(([name]) => name)),
        (spki, signature, algorithm) => nodeVerify({ spki, algorithm, message, signature }) === false,
      ),
    );
    const huge = new Uint8Array(1_000_000);
    expect(nodeVerify({ spki: huge, algorithm: "ed25519", message, signature: huge })).toBe(false);
    const unknown = "constructor" as SignatureAlgorithm;
    expect(nodeVerify({ spki: spkiOf(PAIRS["p256"]!.publicKey), algorithm: unknown, message, signature: huge })).toBe(
      false,
    );
  });

  it("holds a bounded number of keys, the recently used ones", () => {
    const { publicKey, privateKey } = PAIRS["p256"]!;
    const check = { spki: spkiOf(publicKey), algorithm: "ecdsa-p256-sha256" as const, message };
    const signature = sign("sha256", message, privateKey);
    for (let i = 0; i < 400; i++) {
      const spki = spkiOf(generateKeyPairSync("ed25519").publicKey);
      nodeVerify({ spki, algorithm: "ed25519", message, signature: new Uint8Array(64) });
      expect(nodeVerify({ ...check, signature })).toBe(true);
    }
    expect(cachedKeyCount()).toBe(256);
  });
});

describe("ECDSA signatures", () => {
  it("turn from r || s into strict DER of the same two numbers", () => {
    const bytes = fc.constantFrom(32, 48).chain((size) =>
      fc.tuple(
        fc.constant(size),
        fc.uint8Array({ minLength: 2 * size, maxLength: 2 * size }),
        fc.nat(size), // leading zeros of r
      ),
    );
    const big = (octets: Uint8Array): bigint => BigInt(`0x0${Buffer.from(octets).toString("hex")}`);
    fc.assert(
      fc.property(bytes, ([size, raw, zeros]) => {
        raw.fill(0, 0, zeros);
        const reader = inside(readWhole(ecdsaSignatureDer(raw, size)));
        const [r, s] = [reader.read(TAG.integer), reader.read(TAG.integer)];
        reader.end();
        for (const { content } of [r, s]) {
          expect(content[0]! < 0x80).toBe(true);
          expect(content.length === 1 || content[0] !== 0 || content[1]! >= 0x80).toBe(true);
        }
        expect([big(r.content), big(s.content)]).toEqual([big(raw.subarray(0, size)), big(raw.subarray(size))]);
      }),
    );
    expect(() => ecdsaSignatureDer(new Uint8Array(63), 32)).toThrow(
      expect.objectContaining({ code: "hsm-signature-invalid" }),
    );
  });
});

describe("nodeVerifyOnceAside", () => {
  const cases = CASES.map(([algorithm, key, hash]) => {
    const { publicKey, privateKey } = PAIRS[key]!;
    return { algorithm, spki: spkiOf(publicKey), signature: new Uint8Array(sign(hash, message, privateKey)) };
  });
  const flip = (bytes: Uint8Array, bit: number): Uint8Array => {
    const changed = Uint8Array.from(bytes);
    changed[(bit >> 3) % changed.length]! ^= 1 << (bit & 7);
    return changed;
  };

  it("answers as nodeVerify does, whatever is changed", async () => {
    for (const one of cases) expect(await nodeVerifyOnceAside({ ...one, message })).toBe(true);
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...cases),
        fc.constantFrom(...cases),
        fc.constantFrom("spki", "signature", "message", "algorithm", "key"),
        fc.nat(100_000),
        async (one, other, what, bit) => {
          const check = {
            ...one,
            message,
            ...(what === "spki" ? { spki: flip(one.spki, bit) } : {}),
            ...(what === "signature" ? { signature: flip(one.signature, bit) } : {}),
            ...(what === "message" ? { message: flip(message, bit) } : {}),
            ...(what === "algorithm" ? { algorithm: other.algorithm } : {}),
            ...(what === "key" ? { spki: other.spki } : {}),
          };
          const valid = nodeVerify(check);
          expect(await nodeVerifyAside(check)).toBe(valid);
          expect(await nodeVerifyOnceAside(check)).toBe(valid);
        },
      ),
      { numRuns: 1000 },
    );
  });

  it("keeps no key", async () => {
    const before = cachedKeyCount();
    const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const check = { spki: spkiOf(publicKey), algorithm: "ecdsa-p256-sha256" as const, message };
    expect(await nodeVerifyOnceAside({ ...check, signature: sign("sha256", message, privateKey) })).toBe(true);
    expect(cachedKeyCount()).toBe(before);
  });
});
