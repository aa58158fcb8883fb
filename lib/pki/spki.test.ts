import { createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { throwawayKey } from "../../test/support/issuing.ts";
import { fromHex } from "../domain/bytes.ts";
import { CountersignError, errorCodeOf } from "../domain/errors.ts";
import type { KeyAlgorithm } from "../domain/signing.ts";
import { ed25519Fault, toBigInt, weierstrassFault } from "./curves.ts";
import { bitString, integer, nullValue, oid, sequence, unsignedInteger } from "./der-write.ts";
import { OID } from "./oids.ts";
import { rsaWeakness } from "./rsa-weak.ts";
import { keyId, readSpki, spkiPem, subjectKeyIdentifier } from "./spki.ts";

function codeOf(spki: Uint8Array): string {
  try {
    return readSpki(spki).algorithm;
  } catch (error) {
    return errorCodeOf(error);
  }
}

const generate = generateKeyPairSync as unknown as (type: string, options: object) => { publicKey: KeyObject };
const spkiOf = (type: string, options: object): Uint8Array =>
  new Uint8Array(generate(type, options).publicKey.export({ type: "spki", format: "der" }));
const rsaSpki = (modulus: bigint, exponent: number): Uint8Array =>
  sequence(
    sequence(oid(OID.rsaEncryption), nullValue()),
    bitString(sequence(unsignedInteger(fromHex(modulus.toString(16).padStart(512, "0"))), integer(exponent))),
  );

describe("public keys", () => {
  it.each<KeyAlgorithm>(["ec-p256", "ec-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"])(
    "reads %s",
    (algorithm) => {
      for (let i = 0; i < (algorithm.startsWith("rsa") ? 1 : 30); i++)
        expect(codeOf(throwawayKey(algorithm).spki)).toBe(algorithm);
    },
  );

  it.each([
    ["secp256k1", "key-unsupported", spkiOf("ec", { namedCurve: "secp256k1" })],
    ["P-521", "key-unsupported", spkiOf("ec", { namedCurve: "P-521" })],
    ["explicit parameters", "key-unsupported", spkiOf("ec", { namedCurve: "P-256", paramEncoding: "explicit" })],
    ["Ed448", "key-unsupported", spkiOf("ed448", {})],
    ["X25519", "key-unsupported", spkiOf("x25519", {})],
    ["DSA", "key-unsupported", spkiOf("dsa", { modulusLength: 2048, divisorLength: 256 })],
    ["RSA-PSS keys", "key-unsupported", spkiOf("rsa-pss", { modulusLength: 2048 })],
    ["RSA 1024", "key-weak", spkiOf("rsa", { modulusLength: 1024 })],
    ["RSA 2056", "key-unsupported", spkiOf("rsa", { modulusLength: 2056 })],
    ["RSA exponent 3", "key-weak", spkiOf("rsa", { modulusLength: 2048, publicExponent: 3 })],
  ])("refuses %s as %s", (_name, code, spki) => {
    expect(codeOf(spki)).toBe(code);
  });

  it("refuses RSA with exponent 1 or even, and moduli with small factors", () => {
    const modulus = toBigInt(
      new Uint8Array(
        Buffer.from(
          createPublicKey({ key: Buffer.from(throwawayKey("rsa-2048").spki), format: "der", type: "spki" }).export({
            format: "jwk",
          }).n!,
          "base64url",
        ),
      ),
    );
    expect(codeOf(rsaSpki(modulus, 65537))).toBe("rsa-2048");
    for (const exponent of [1, 2, 65536]) expect(codeOf(rsaSpki(modulus, exponent))).toBe("key-weak");
    const multiple = (modulus / 751n / 2n) * 2n * 751n + 751n;
    expect(codeOf(rsaSpki(multiple, 65537))).toBe("key-weak");
  });

  it("knows a ROCA modulus by its residues (CVE-2017-15361)", () => {
    // Primes of the faulty form k*M + (65537^a mod M) give moduli in the subgroup of 65537 modulo each small prime
    const primorial = [
      2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107,
      109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ].reduce((product, prime) => product * BigInt(prime), 1n);
    let residue = 1n;
    for (let i = 0; i < 123; i++) residue = (residue * 65537n) % primorial;
    const form = (k: bigint): bigint => k * primorial + residue;
    let k = 2n ** 800n;
    const octets = (n: bigint): Uint8Array => fromHex(n.toString(16).padStart(512, "0"));
    const e = octets(65537n);
    while (rsaWeakness(octets(form(k) * form(k + 2n)), e)?.includes("small factor") === true) k++;
    expect(rsaWeakness(octets(form(k) * form(k + 2n)), e)).toContain("ROCA");
  });

  it("refuses points off the curve, compressed ones and coordinates beyond the field", () => {
    for (const [algorithm, curve, width] of [
      ["ec-p256", "p256", 32],
      ["ec-p384", "p384", 48],
    ] as const) {
      const { keyOctets } = readSpki(throwawayKey(algorithm).spki);
      expect(weierstrassFault(curve, keyOctets)).toBeUndefined();
      for (let bit = 8; bit < keyOctets.length * 8; bit += 37) {
        const flipped = keyOctets.slice();
        flipped[bit >> 3]! ^= 1 << (bit & 7);
        expect(weierstrassFault(curve, flipped)).toBe("not-on-curve");
      }
      expect(weierstrassFault(curve, Uint8Array.of(2, ...keyOctets.subarray(1, 1 + width)))).toBe("compressed");
      expect(weierstrassFault(curve, new Uint8Array(1 + 2 * width).fill(255).with(0, 4))).toBe("not-on-curve");
      expect(weierstrassFault(curve, Uint8Array.of(0))).toBe("length");
    }
    const p256 = throwawayKey().spki;
    expect(codeOf(p256.with(p256.length - 1, p256.at(-1)! ^ 1))).toBe("key-weak");
  });

  it("refuses Ed25519 points of small order, off the curve and not reduced", () => {
    const p = 2n ** 255n - 19n;
    const little = (y: bigint, sign = 0n): Uint8Array =>
      fromHex((y | (sign << 255n)).toString(16).padStart(64, "0")).reverse();
    const order8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05";
    const order8other = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";
    for (const key of [little(0n), little(1n), little(p - 1n), little(0n, 1n), fromHex(order8), fromHex(order8other)]) {
      expect(ed25519Fault(key)).toBe("small-order");
    }
    expect(ed25519Fault(little(p))).toBe("not-on-curve");
    expect(ed25519Fault(little(p + 1n))).toBe("not-on-curve");
    const onCurve = Array.from({ length: 40 }, (_, i) => ed25519Fault(little(BigInt(i + 2))));
    expect(new Set(onCurve)).toEqual(new Set([undefined, "not-on-curve"]));
  });

  it("answers anything with a key or a typed refusal", () => {
    const spki = throwawayKey("rsa-2048").spki;
    const mutation = fc.record({
      at: fc.nat({ max: spki.length - 1 }),
      value: fc.integer({ min: 0, max: 255 }),
      cut: fc.nat({ max: 20 }),
    });
    fc.assert(
      fc.property(mutation, ({ at, value, cut }) => {
        expect(["rsa-2048", "der-invalid", "key-unsupported", "key-weak"]).toContain(
          codeOf(spki.with(at, value).slice(0, spki.length - cut)),
        );
      }),
    );
    expect(() => readSpki(new Uint8Array(2000))).toThrow(CountersignError);
  });

  it("names keys by the SHA-256 of their SPKI, and identifies them by RFC 7093 method 1", () => {
    const spki = throwawayKey().spki;
    const key = createPublicKey(spkiPem(spki));
    expect(new Uint8Array(key.export({ type: "spki", format: "der" }))).toEqual(spki);
    expect(keyId(spki)).toMatch(/^[0-9a-f]{64}$/);
    expect(subjectKeyIdentifier(spki)).toHaveLength(20);
  });
});
