import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { openssl } from "../../test/support/judge.ts";
import { fromHex, toHex, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { encodeElement, oid, sequence, setOf } from "./der-write.ts";
import { TAG } from "./der.ts";
import { buildName, formatName, isWithin, parseName, sameName } from "./name.ts";
import { OID } from "./oids.ts";

const cn = (tag: number, octets: Uint8Array) =>
  parseName(sequence(setOf(sequence(oid(OID.commonName), encodeElement(tag, octets)))));
const text = (value: string) => cn(TAG.utf8String, utf8(value));

describe("distinguished names", () => {
  it("are built from the widest attribute to the narrowest, in the string types X.520 asks for", () => {
    const der = buildName({
      commonName: "Zoë",
      organization: "X",
      country: "DE",
      serialNumber: "7",
      organizationalUnit: "U",
    });
    const judged = openssl(["asn1parse", "-inform", "DER"], der).text;
    expect([...judged.matchAll(/OBJECT\s+:(\w+)|(\w+STRING)/g)].map((match) => match[1] ?? match[2])).toEqual([
      "countryName",
      "PRINTABLESTRING",
      "organizationName",
      "UTF8STRING",
      "organizationalUnitName",
      "UTF8STRING",
      "commonName",
      "UTF8STRING",
      "serialNumber",
      "PRINTABLESTRING",
    ]);
    expect(formatName(parseName(der))).toBe("C=DE, O=X, OU=U, CN=Zoë, serialNumber=7");
  });

  it("read back what was built", () => {
    const value = fc
      .string({ unit: "grapheme", minLength: 1, maxLength: 20 })
      .filter((s) => !/\p{Cc}/u.test(s) && s.isWellFormed());
    fc.assert(
      fc.property(value, fc.option(value, { nil: undefined }), (commonName, organization) => {
        const name = parseName(buildName({ commonName, organization }));
        expect(name.cn).toBe(commonName);
        expect(name.rdns).toHaveLength(organization === undefined ? 1 : 2);
      }),
    );
  });

  it.each([
    { commonName: "" },
    { commonName: "x".repeat(65) },
    { commonName: "a\0b" },
    { commonName: "a\nb" },
    { country: "de" },
    { country: "DEU" },
    { serialNumber: "a_b" },
    { organization: "\ud800" },
  ])("are refused as %j", (parts) => {
    expect(() => buildName(parts)).toThrow(CountersignError);
  });

  it.each([
    ["string types", text("Factory Y"), cn(TAG.printableString, utf8("Factory Y"))],
    ["case", text("Factory Y"), text("fActory y")],
    ["outer and inner space", text("Factory Y"), text("  Factory \t Y ")],
    ["BMPString", text("AB"), cn(TAG.bmpString, fromHex("00410042"))],
    ["UniversalString", text("AB"), cn(TAG.universalString, fromHex("0000004100000042"))],
    ["TeletexString", text("é"), cn(TAG.teletexString, fromHex("e9"))],
  ])("compare equal over %s", (_what, a, b) => {
    expect(sameName(a, b)).toBe(true);
  });

  it.each([
    ["inner space against none", text("Factory Y"), text("FactoryY")],
    ["letters beyond ASCII in another case", text("É"), text("é")],
    ["another attribute", text("x"), parseName(buildName({ organization: "x" }))],
    ["one RDN more", text("x"), parseName(buildName({ organization: "x", commonName: "x" }))],
    ["NumericString", text("12"), cn(TAG.numericString, utf8("12"))],
    ["quotes that imitate a key", text('"a'), text("a")],
  ])("compare different over %s", (_what, a, b) => {
    expect(sameName(a, b)).toBe(false);
    expect(sameName(b, a)).toBe(false);
  });

  it("lie within a base that their first RDNs match", () => {
    const device = parseName(buildName({ organization: "Factory Y", commonName: "d-1" }));
    expect(isWithin(device, parseName(buildName({ organization: "factory y" })))).toBe(true);
    expect(isWithin(device, parseName(buildName({ organization: "Factory" })))).toBe(false);
    expect(isWithin(device, parseName(buildName({ commonName: "d-1" })))).toBe(false);
    expect(isWithin(device, parseName(sequence()))).toBe(true);
  });

  it("with two common names have no common name to go by", () => {
    const rdn = (value: string) => setOf(sequence(oid(OID.commonName), encodeElement(TAG.utf8String, utf8(value))));
    expect(parseName(sequence(rdn("a"), rdn("b"))).cn).toBeUndefined();
  });

  it.each([
    ["a NUL", "61006c"],
    ["bad UTF-8", "c328"],
    ["an overlong form", "c080"],
  ])("refuse %s in a string", (_what, hex) => {
    expect(() => cn(TAG.utf8String, fromHex(hex))).toThrow(CountersignError);
  });

  it("refuse an unordered or empty SET and too many RDNs", () => {
    const one = sequence(oid(OID.commonName), encodeElement(TAG.utf8String, utf8("b")));
    const two = sequence(oid(OID.commonName), encodeElement(TAG.utf8String, utf8("a")));
    expect(() => parseName(sequence(encodeElement(TAG.set, one, two)))).toThrow(/not in order/);
    expect(() => parseName(sequence(encodeElement(TAG.set, one, one)))).toThrow(/not in order/);
    expect(() => parseName(sequence(encodeElement(TAG.set)))).toThrow(/empty RDN/);
    expect(() => parseName(sequence(...Array.from({ length: 33 }, () => setOf(one))))).toThrow(/more than 32/);
    expect(toHex(parseName(sequence()).der)).toBe("3000");
  });
});
