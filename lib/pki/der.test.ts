import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fromHex, toHex } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { boolean, encodeElement, integer, namedBitString, oid, sequence, setOf, unsignedInteger } from "./der-write.ts";
import { DerReader, readWhole, TAG } from "./der.ts";

function refusal(hex: string, read: (reader: DerReader) => unknown): CountersignError {
  try {
    read(new DerReader(fromHex(hex)));
  } catch (error) {
    if (error instanceof CountersignError) return error;
    throw error;
  }
  throw new Error(`${hex} was accepted`);
}

describe("the DER cursor", () => {
  it.each([
    ["indefinite length", "30800000", (r: DerReader) => r.read()],
    ["a long form where the short one fits", "04810161", (r: DerReader) => r.read()],
    ["a length with a leading zero", `0482008${"1"}${"61".repeat(0x81)}`, (r: DerReader) => r.read()],
    ["a length of 5 octets", "04850000000001aa", (r: DerReader) => r.read()],
    ["a length beyond the input", "0484ffffffff00", (r: DerReader) => r.read()],
    ["a missing length", "04", (r: DerReader) => r.read()],
    ["nothing", "", (r: DerReader) => r.read()],
    ["multi-octet tags", "1f810100", (r: DerReader) => r.read()],
    ["a constructed OCTET STRING", "240404026161", (r: DerReader) => r.read()],
    ["a primitive SEQUENCE", "1000", (r: DerReader) => r.read()],
    ["end-of-contents", "0000", (r: DerReader) => r.read()],
    ["an INTEGER with a leading zero", "02020001", (r: DerReader) => r.integer()],
    ["an INTEGER with a leading FF", "0202ff80", (r: DerReader) => r.integer()],
    ["an empty INTEGER", "0200", (r: DerReader) => r.integer()],
    ["a negative INTEGER where none belongs", "020180", (r: DerReader) => r.unsigned()],
    ["an INTEGER above the limit", "020203e9", (r: DerReader) => r.small(1000)],
    ["BOOLEAN 01", "010101", (r: DerReader) => r.boolean()],
    ["NULL with content", "050100", (r: DerReader) => r.null()],
    ["an OID ending inside an arc", "060281ff", (r: DerReader) => r.oid()],
    ["an OID arc with leading 80", "0603550480", (r: DerReader) => r.oid()],
    ["an OID arc with a leading zero group", "0603558004", (r: DerReader) => r.oid()],
    ["an empty OID", "0600", (r: DerReader) => r.oid()],
    ["named bits with trailing zeros", "03020780".replace("07", "00"), (r: DerReader) => r.namedBits()],
    ["named bits with unused bits set", "03020381", (r: DerReader) => r.namedBits()],
    ["a BIT STRING without its first octet", "0300", (r: DerReader) => r.namedBits()],
    ["trailing octets", "050000", (r: DerReader) => (r.null(), r.end())],
  ])("refuses %s", (_name, hex, read) => {
    const error = refusal(hex, read);
    expect(error.code).toBe("der-invalid");
    expect(error.details["offset"]).toBeTypeOf("number");
  });

  it("names the offset in the outermost input", () => {
    const inner = sequence(integer(5), Uint8Array.of(0x02, 0x02, 0x00, 0x01));
    const reader = new DerReader(sequence(integer(1), inner)).enter();
    reader.integer();
    const nested = reader.enter();
    nested.integer();
    expect(() => nested.integer()).toThrow(/DER offset 10/);
  });

  it("reads back what the writer wrote", () => {
    fc.assert(
      fc.property(fc.nat(), fc.uint8Array({ minLength: 1, maxLength: 300 }), fc.boolean(), (n, octets, flag) => {
        const reader = new DerReader(
          sequence(integer(n), unsignedInteger(octets), boolean(flag), encodeElement(TAG.octetString, octets)),
        ).enter();
        expect(reader.small(2 ** 31)).toBe(n);
        expect(toHex(reader.unsigned())).toBe(toHex(octets).replace(/^(00)+(?=..)/, ""));
        expect(reader.boolean()).toBe(flag);
        expect(reader.octets()).toEqual(octets);
        reader.end();
      }),
    );
  });

  it("reads back object identifiers of any size", () => {
    const arc = fc.bigInt({ min: 0n, max: 2n ** 128n - 1n });
    fc.assert(
      fc.property(
        fc.constantFrom(0n, 1n, 2n),
        fc.bigInt({ min: 0n, max: 39n }),
        fc.array(arc, { maxLength: 2 }),
        (a, b, rest) => {
          const dotted = [a, b, ...rest].join(".");
          expect(new DerReader(oid(dotted)).oid()).toBe(dotted);
        },
      ),
    );
    expect(toHex(oid("2.999.3"))).toBe("0603883703");
    expect(new DerReader(fromHex("0603883703")).oid()).toBe("2.999.3");
  });

  it("reads back named bits", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 0, max: 8 })), (bits) => {
        expect(new DerReader(namedBitString(bits)).namedBits()).toEqual(bits.toSorted((a, b) => a - b));
      }),
    );
  });

  it("orders SET OF by encoding (X.690 section 11.6)", () => {
    expect(toHex(setOf(integer(300), integer(2), integer(1)))).toBe("310a0201010201020202012c");
  });

  it("takes any octets without another outcome than a value or der-invalid", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          let reader = new DerReader(bytes);
          for (let depth = 0; depth < 50 && !reader.atEnd; depth++) {
            const element = reader.read();
            expect(element.offset + element.raw.length).toBeLessThanOrEqual(bytes.length);
            if ((element.tag & 0x20) !== 0) reader = new DerReader(element.content, element.contentOffset);
          }
          readWhole(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(CountersignError);
          expect((error as CountersignError).code).toBe("der-invalid");
        }
      }),
      { numRuns: 2000 },
    );
  });
});
