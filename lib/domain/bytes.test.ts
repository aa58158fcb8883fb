import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { concatBytes, equalBytes, fromBase64, fromHex, fromUtf8, toBase64, toHex, utf8 } from "./bytes.ts";

describe("bytes", () => {
  it("round-trips hex and base64 as Node does", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 500 }), (bytes) => {
        expect(toHex(bytes)).toBe(Buffer.from(bytes).toString("hex"));
        expect(toBase64(bytes)).toBe(Buffer.from(bytes).toString("base64"));
        expect(equalBytes(fromHex(toHex(bytes)), bytes)).toBe(true);
        expect(equalBytes(fromBase64(toBase64(bytes)), bytes)).toBe(true);
      }),
    );
  });

  it("encodes base64 beyond one chunk", () => {
    const bytes = new Uint8Array(100_000).map((_, i) => i * 7);
    expect(toBase64(bytes)).toBe(Buffer.from(bytes).toString("base64"));
  });

  it.each(["AA", "AA=", "AB==", "A===", "AA==\n", "A-_=", "AAA=AAA="])("refuses the base64 %j", (text) => {
    expect(() => fromBase64(text)).toThrow(RangeError);
  });

  it.each(["a", "zz", "0x"])("refuses the hex %j", (text) => {
    expect(() => fromHex(text)).toThrow(RangeError);
  });

  it("refuses bytes that aren't UTF-8, and keeps a byte order mark", () => {
    expect(() => fromUtf8(Uint8Array.of(0xff))).toThrow(TypeError);
    expect(fromUtf8(Uint8Array.of(0xef, 0xbb, 0xbf))).toBe("\ufeff");
  });

  it("concatenates", () => {
    expect(concatBytes(utf8("a"), new Uint8Array(), utf8("bc"))).toEqual(utf8("abc"));
  });

  it("does the same where the platform has no codecs of its own", async () => {
    const { Buffer } = globalThis;
    vi.resetModules();
    vi.stubGlobal("Buffer", undefined);
    const portable = await import("./bytes.ts");
    vi.unstubAllGlobals();
    expect(portable.toHex).not.toBe(toHex);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 500 }), fc.string({ maxLength: 12 }), (bytes, text) => {
        expect(portable.toHex(bytes)).toBe(toHex(bytes));
        expect(portable.toBase64(bytes)).toBe(toBase64(bytes));
        expect(portable.fromHex(toHex(bytes))).toEqual(fromHex(toHex(bytes)));
        expect(portable.fromBase64(toBase64(bytes))).toEqual(fromBase64(toBase64(bytes)));
        for (const name of ["fromHex", "fromBase64"] as const) {
          const outcome = (decode: (text: string) => Uint8Array) => {
            try {
              return Buffer.from(decode(text)).toString("hex");
            } catch (error) {
              return (error as Error).name;
            }
          };
          expect(outcome(portable[name])).toBe(outcome({ fromHex, fromBase64 }[name]));
        }
      }),
    );
  });
});
