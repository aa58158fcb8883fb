import { type KeyObject, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import fc from "fast-check";
import { expect, it } from "vitest";
import type { SignatureAlgorithm } from "../lib/domain/signing.ts";
import { nodeVerify, verifyTogether } from "./index.ts";

const CASES: readonly [SignatureAlgorithm, { publicKey: KeyObject; privateKey: KeyObject }, string | null][] = [
  ["ecdsa-p256-sha256", generateKeyPairSync("ec", { namedCurve: "P-256" }), "sha256"],
  ["ecdsa-p256-sha384", generateKeyPairSync("ec", { namedCurve: "P-256" }), "sha384"],
  ["ecdsa-p384-sha384", generateKeyPairSync("ec", { namedCurve: "P-384" }), "sha384"],
  ["ed25519", generateKeyPairSync("ed25519"), null],
  ["rsa-pkcs1-sha256", generateKeyPairSync("rsa", { modulusLength: 2048 }), "sha256"],
];

const checkOf = (which: number, length: number) => {
  const [algorithm, { publicKey, privateKey }, hash] = CASES[which % CASES.length]!;
  const message = randomBytes(length);
  const spki = Uint8Array.from(publicKey.export({ type: "spki", format: "der" }));
  return { spki, algorithm, message, signature: Uint8Array.from(sign(hash, message, privateKey)) };
};

it("answers each check as nodeVerify does, however many are asked for together, of whatever length, whatever is changed", async () => {
  const one = fc.record({
    which: fc.nat(4),
    length: fc.oneof(fc.nat(600), fc.nat(9000)),
    part: fc.constantFrom("none", "message", "signature", "spki", "shorter"),
    bit: fc.nat(),
  });
  let valid = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(one, { maxLength: 200, size: "max" }), async (cases) => {
      const checks = cases.map(({ which, length, part, bit }) => {
        const check = checkOf(which, length);
        if (part === "shorter") return { ...check, signature: check.signature.subarray(1) };
        const bytes = part === "none" ? undefined : check[part];
        if (bytes !== undefined && bytes.length > 0) bytes[(bit >> 3) % bytes.length]! ^= 1 << (bit & 7);
        return check;
      });
      const expected = checks.map(nodeVerify);
      valid += expected.filter(Boolean).length;
      expect(await Promise.all(checks.map(verifyTogether))).toEqual(expected);
    }),
    { numRuns: 25 },
  );
  expect(valid).toBeGreaterThan(50);
});
