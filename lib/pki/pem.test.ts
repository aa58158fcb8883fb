import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CountersignError } from "../domain/errors.ts";
import { pemBlocks, pemDecode, pemEncode } from "./pem.ts";

const der = Uint8Array.from({ length: 100 }, (_, i) => i);

describe("PEM", () => {
  it("reads back what it wrote, in lines of 64 columns", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 }), { minLength: 1, maxLength: 5 }), (ders) => {
        const text = ders.map((one) => pemEncode("CERTIFICATE", one)).join("");
        expect(pemDecode(text, "CERTIFICATE")).toEqual(ders);
        for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(64);
      }),
    );
  });

  it("ignores text around blocks, CRLF and a final NUL", () => {
    const text = `subject=CN=x\r\n${pemEncode("CERTIFICATE", der).replaceAll("\n", "\r\n")}\r\nmore\r\n\0`;
    expect(pemDecode(text, "CERTIFICATE")).toEqual([der]);
  });

  const good = pemEncode("CERTIFICATE", der);
  it.each([
    ["a private key among certificates", good + pemEncode("EC PRIVATE KEY", der), /remove the key/],
    ["another label", pemEncode("X509 CRL", der), /X509 CRL where only CERTIFICATE/],
    ["no block", "hello", /no CERTIFICATE block/],
    ["a block without END", good.slice(0, -10), /not the END|cut off/],
    ["an END of another label", good.replace("END CERTIFICATE", "END X"), /not the END/],
    ["a BEGIN inside a block", good.replace("\n", "\n-----BEGIN CERTIFICATE-----\n"), /not the END/],
    ["an END without BEGIN", "-----END CERTIFICATE-----\n", /without its BEGIN/],
    ["characters outside base64", good.replace("AAEC", "AA*C"), /not base64/],
    ["headers inside the block", good.replace("\n", "\nProc-Type: 4,ENCRYPTED\n"), /not base64/],
    ["base64 that isn't canonical", "-----BEGIN CERTIFICATE-----\nAB==\n-----END CERTIFICATE-----\n", /not base64/],
    ["an empty block", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", /empty/],
  ])("refuses %s", (_name, text, message) => {
    expect(() => pemDecode(text, "CERTIFICATE")).toThrow(message);
    expect(() => pemDecode(text, "CERTIFICATE")).toThrow(CountersignError);
  });

  it("refuses more than 4 MiB or 256 blocks", () => {
    expect(() => pemBlocks(" ".repeat(4 * 1024 * 1024 + 1))).toThrow(/4194304/);
    expect(() => pemBlocks(pemEncode("X", der).repeat(257))).toThrow(/256/);
  });

  it("reads hostile texts in linear time, with a typed refusal or an answer", () => {
    const text = fc.array(
      fc.constantFrom("-----BEGIN A-----", "-----END A-----", "-----", "AAAA", "\n", "=", " ", "A"),
    );
    fc.assert(
      fc.property(text, (parts) => {
        try {
          pemBlocks(parts.join(""));
        } catch (error) {
          expect((error as CountersignError).code).toBe("pem-invalid");
        }
      }),
      { numRuns: 1000 },
    );
  });
});
