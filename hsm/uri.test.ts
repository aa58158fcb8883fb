import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CountersignError } from "../lib/domain/errors.ts";
import { PKCS11_OBJECT_TYPES, type Pkcs11Uri, formatPkcs11Uri, parsePkcs11Uri } from "./uri.ts";

const refusal = (text: string): string => {
  try {
    parsePkcs11Uri(text);
  } catch (error) {
    expect(error).toBeInstanceOf(CountersignError);
    expect((error as CountersignError).code).toBe("input-invalid");
    return (error as Error).message;
  }
  throw new Error(`accepted ${text}`);
};

// eslint-disable-next-line no-control-regex -- the parser refuses them
const text = fc.string({ unit: "binary", minLength: 1, maxLength: 40 }).filter((s) => !/[\u0000-\u001f\u007f]/.test(s));
const uris = fc.record(
  {
    token: text,
    serial: text,
    manufacturer: text,
    model: text,
    slotId: fc.nat(),
    object: text,
    id: fc.uint8Array({ minLength: 1, maxLength: 32 }),
    type: fc.constantFrom(...PKCS11_OBJECT_TYPES),
    pinSource: text,
    modulePath: text,
  },
  { requiredKeys: [] },
);

describe("PKCS#11 URIs", () => {
  it("come back from their canonical form unchanged, and the form is stable", () => {
    fc.assert(
      fc.property(uris, (uri) => {
        const formatted = formatPkcs11Uri(uri as Pkcs11Uri);
        expect(formatted).toMatch(/^[!-~]*$/);
        expect(parsePkcs11Uri(formatted)).toEqual(uri);
        expect(formatPkcs11Uri(parsePkcs11Uri(formatted))).toBe(formatted);
      }),
      { numRuns: 500 },
    );
  });

  it("reads the examples of RFC 7512 section 3 that name only what is used here", () => {
    expect(parsePkcs11Uri("pkcs11:")).toEqual({});
    expect(parsePkcs11Uri("pkcs11:object=my-pubkey;type=public")).toEqual({ object: "my-pubkey", type: "public" });
    expect(parsePkcs11Uri("pkcs11:object=my-key;type=private?pin-source=file:/etc/token")).toEqual({
      object: "my-key",
      type: "private",
      pinSource: "file:/etc/token",
    });
    expect(
      parsePkcs11Uri(
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;" +
          "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=1?pin-source=file:/etc/token_pin",
      ),
    ).toEqual({
      token: "The Software PKCS#11 Softtoken",
      manufacturer: "Snake Oil, Inc.",
      model: "1.0",
      object: "my-certificate",
      type: "cert",
      id: Uint8Array.of(0x69, 0x95, 0x3e, 0x5c, 0xf4, 0xbd, 0xec, 0x91),
      serial: "1",
      pinSource: "file:/etc/token_pin",
    });
    expect(parsePkcs11Uri("pkcs11:token=Token%20A%20with%20UTF-8%20%C2%A3;slot-id=327")).toEqual({
      token: "Token A with UTF-8 £",
      slotId: 327,
    });
  });

  it("never take a PIN, and never repeat a refused one", () => {
    for (const uri of ["pkcs11:token=a?pin-value=the-pin", "pkcs11:pin-value=the-pin", "pkcs11:?pin-value=the-pin"]) {
      const message = refusal(uri);
      expect(message).toContain("pin-value is refused");
      expect(message).not.toContain("the-pin");
    }
    expect(refusal("pkcs11:token=a?pin-walue=the-pin")).not.toContain("the-pin");
  });

  it.each([
    ["another scheme", "pkcs12:token=a"],
    ["no scheme", "token=a"],
    ["an attribute twice", "pkcs11:token=a;token=b"],
    ["an unknown path attribute", "pkcs11:token=a;x-vendor=1"],
    ["a name of Object.prototype", "pkcs11:constructor=a"],
    ["an unknown query attribute", "pkcs11:token=a?x-vendor=1"],
    ["a query attribute in the path", "pkcs11:module-path=a"],
    ["an empty attribute", "pkcs11:token=a;;serial=1"],
    ["an empty value", "pkcs11:token="],
    ["an empty id", "pkcs11:id="],
    ["an empty query", "pkcs11:token=a?"],
    ["a bare name", "pkcs11:token"],
    ["a broken escape", "pkcs11:token=a%2"],
    ["an escape that isn't hex", "pkcs11:token=a%zz"],
    ["a space", "pkcs11:token=a b"],
    ["a slash in the path", "pkcs11:token=a/b"],
    ["unencoded UTF-8", "pkcs11:token=ä"],
    ["octets that aren't UTF-8", "pkcs11:token=%ff"],
    ["overlong UTF-8", "pkcs11:token=%c0%af"],
    ["a NUL", "pkcs11:token=a%00b"],
    ["a line feed", "pkcs11:object=a%0a"],
    ["a type of no object", "pkcs11:type=key"],
    ["a slot-id that isn't a number", "pkcs11:slot-id=0x1"],
    ["a slot-id beyond exact numbers", "pkcs11:slot-id=99999999999999999999"],
    ["more than 4096 characters", `pkcs11:token=${"a".repeat(4096)}`],
  ])("refuse %s", (_what, uri) => {
    refusal(uri);
  });

  it("refuse to be built from what they can't hold", () => {
    expect(() => formatPkcs11Uri({ token: "" })).toThrow(CountersignError);
    expect(() => formatPkcs11Uri({ token: "a\u0000" })).toThrow(CountersignError);
    expect(() => formatPkcs11Uri({ token: "\ud800" })).toThrow(CountersignError);
    expect(() => formatPkcs11Uri({ id: new Uint8Array() })).toThrow(CountersignError);
    expect(() => formatPkcs11Uri({ slotId: -1 })).toThrow(CountersignError);
  });
});
