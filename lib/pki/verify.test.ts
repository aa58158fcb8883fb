import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { throwawayKey } from "../../test/support/issuing.ts";
import { fromHex, utf8 } from "../domain/bytes.ts";
import type { KeyAlgorithm } from "../domain/signing.ts";
import { sequence, unsignedInteger } from "./der-write.ts";
import { ecdsaRaw, webCryptoVerify } from "./verify.ts";

const message = utf8("a message");

describe("webCryptoVerify", () => {
  it.each<KeyAlgorithm>(["ec-p256", "ec-p384", "ed25519", "rsa-2048"])(
    "accepts good %s signatures and no others",
    async (algorithm) => {
      const key = throwawayKey(algorithm);
      const { spki, algorithm: named } = key;
      for (let i = 0; i < 20; i++) {
        const text = utf8(`message ${i}`);
        const signature = key.sign(text);
        expect(await webCryptoVerify({ spki, algorithm: named, message: text, signature })).toBe(true);
        expect(await webCryptoVerify({ spki, algorithm: named, message, signature })).toBe(false);
      }
      const signature = key.sign(message);
      expect(await webCryptoVerify({ spki: throwawayKey(algorithm).spki, algorithm: named, message, signature })).toBe(
        false,
      );
      expect(await webCryptoVerify({ spki, algorithm: named, message, signature: signature.subarray(1) })).toBe(false);
      expect(await webCryptoVerify({ spki, algorithm: named, message, signature: new Uint8Array(0) })).toBe(false);
      const other = named === "ed25519" ? "ecdsa-p256-sha256" : "ed25519";
      expect(await webCryptoVerify({ spki, algorithm: other, message, signature })).toBe(false);
      expect(await webCryptoVerify({ spki: spki.subarray(2), algorithm: named, message, signature })).toBe(false);
    },
  );

  it("never throws, whatever the signature", async () => {
    const { spki } = throwawayKey();
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 80 }), async (signature) => {
        expect(await webCryptoVerify({ spki, algorithm: "ecdsa-p256-sha256", message, signature })).toBe(false);
      }),
    );
  });
});

describe("ECDSA signature values", () => {
  it("become r || s of fixed width", () => {
    const integer = fc.uint8Array({ minLength: 1, maxLength: 32 });
    fc.assert(
      fc.property(integer, integer, (r, s) => {
        const raw = ecdsaRaw(sequence(unsignedInteger(r), unsignedInteger(s)), 32);
        expect(Buffer.from(raw.subarray(0, 32)).toString("hex")).toBe(Buffer.from(r).toString("hex").padStart(64, "0"));
        expect(Buffer.from(raw.subarray(32)).toString("hex")).toBe(Buffer.from(s).toString("hex").padStart(64, "0"));
      }),
    );
  });

  it.each([
    ["a leading zero too many", "3007020200010201" + "01"],
    ["a negative integer", "3006020181020101"],
    ["an integer wider than the curve", `3026022101${"00".repeat(32)}020101`],
    ["something after s", "3009020101020101020101"],
    ["something after the sequence", "300602010102010100"],
    ["a length in long form", "308106020101020101"],
    ["only r", "3003020101"],
  ])("are refused with %s", (_what, hex) => {
    expect(() => ecdsaRaw(fromHex(hex), 32)).toThrow(/DER/);
  });
});
