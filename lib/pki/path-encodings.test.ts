import { describe, expect, it } from "vitest";
import { rawExtension as ext } from "../../test/support/raw-certificate.ts";
import { CA_BASICS, type Spoil, spoiled, outcome, put, algorithm, time, gn } from "../../test/support/spoiled-path.ts";
import { fromHex } from "../domain/bytes.ts";
import * as der from "./der-write.ts";
import { OID } from "./oids.ts";

/** Encodings that RFC 5280 or DER forbid, one certificate of a path changed at a time. */

const SECP256K1 = fromHex(
  "3056301006072a8648ce3d020106052b8104000a03420004" +
    "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798" +
    "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
);

describe.each<[string, [string, Spoil, string][]]>([
  [
    "encodings",
    [
      ["as they should be", {}, "ok 3"],
      ["a version 1 CA", { ca: (raw) => ((raw.version = 1), void (raw.extensions = [])) }, "certificate-malformed@1"],
      ["version 2", { leaf: (raw) => void (raw.version = 2) }, "certificate-malformed@0"],
      ["version 4", { leaf: (raw) => void (raw.version = 4) }, "certificate-malformed@0"],
      ["serial number zero", { leaf: (raw) => void (raw.serial = Uint8Array.of(0)) }, "certificate-malformed@0"],
      [
        "a negative serial number",
        { leaf: (raw) => void (raw.serial = Uint8Array.of(0xff)) },
        "certificate-malformed@0",
      ],
      ["a serial number of 20 octets", { leaf: (raw) => void (raw.serial = new Uint8Array(20).fill(1)) }, "ok 3"],
      [
        "a serial number of 21 octets",
        { leaf: (raw) => void (raw.serial = new Uint8Array(21).fill(1)) },
        "certificate-malformed@0",
      ],
      [
        "a time with fractions",
        { leaf: (raw) => void (raw.notAfter = time(0x18, "20510101000000.5Z")) },
        "certificate-malformed@0",
      ],
      [
        "a time with an offset",
        { leaf: (raw) => void (raw.notAfter = time(0x17, "300101000000+0100")) },
        "certificate-malformed@0",
      ],
      [
        "a time without seconds",
        { leaf: (raw) => void (raw.notAfter = time(0x17, "3001010000Z")) },
        "certificate-malformed@0",
      ],
      [
        "a time in local form",
        { leaf: (raw) => void (raw.notAfter = time(0x18, "20510101000000")) },
        "certificate-malformed@0",
      ],
      [
        "GeneralizedTime before 2050",
        { leaf: (raw) => void (raw.notAfter = time(0x18, "20300101000000Z")) },
        "certificate-malformed@0",
      ],
      [
        "the 30th of February",
        { leaf: (raw) => void (raw.notAfter = time(0x17, "300230000000Z")) },
        "certificate-malformed@0",
      ],
      [
        "a leap second",
        { leaf: (raw) => void (raw.notAfter = time(0x17, "300101235960Z")) },
        "certificate-malformed@0",
      ],
      ["no expiry", { leaf: (raw) => void (raw.notAfter = time(0x18, "99991231235959Z")) }, "ok 3"],
      [
        "NULL parameters with ECDSA",
        { leaf: algorithm(der.sequence(der.oid(OID.ecdsaWithSha256), der.nullValue())) },
        "signature-algorithm-unsupported@0",
      ],
      ["SHA-1", { leaf: algorithm(der.sequence(der.oid("1.2.840.10045.4.1"))) }, "signature-algorithm-unsupported@0"],
      [
        "RSA-PSS",
        { leaf: algorithm(der.sequence(der.oid("1.2.840.113549.1.1.10"), der.sequence())) },
        "signature-algorithm-unsupported@0",
      ],
      [
        "another scheme's name",
        { leaf: algorithm(der.sequence(der.oid(OID.sha256WithRsaEncryption), der.nullValue())) },
        "signature-algorithm-unsupported@0",
      ],
      ["another hash's name", { leaf: algorithm(der.sequence(der.oid(OID.ecdsaWithSha384))) }, "signature-invalid@0"],
      [
        "a CA's key of a kind we don't take",
        { ca: (raw) => void (raw.spki = SECP256K1) },
        "signature-algorithm-unsupported@0",
      ],
      [
        "malformed authority information access",
        { leaf: put(OID.authorityInfoAccess, false, der.sequence(der.sequence(der.oid("1.2.3")))) },
        "certificate-malformed@0",
      ],
      [
        "critical authority information access",
        {
          leaf: put(
            OID.authorityInfoAccess,
            true,
            der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.48.1"), gn.uri("http://x/"))),
          ),
        },
        "extension-unknown@0",
      ],
      [
        "an extension's trailing octets",
        { ca: (raw) => void (raw.extensions[0] = { ...CA_BASICS[0]!, value: fromHex("30030101ff00") }) },
        "certificate-malformed@1",
      ],
      [
        "cA TRUE as 01",
        { ca: (raw) => void (raw.extensions[0] = { ...CA_BASICS[0]!, value: fromHex("3003010101") }) },
        "certificate-malformed@1",
      ],
      [
        "a negative path length",
        { ca: (raw) => void (raw.extensions[0] = { ...CA_BASICS[0]!, value: fromHex("30060101ff0201ff") }) },
        "certificate-malformed@1",
      ],
      ["a key usage of no octets", { leaf: (raw) => void (raw.extensions[1] = ext.keyUsage([])) }, "key-usage@0"],
      [
        "an empty list of alternative names",
        { leaf: (raw) => void raw.extensions.push(ext.san([])) },
        "certificate-malformed@0",
      ],
    ],
  ],
])("%s", (_group, cases) => {
  it.each(cases)("%s", async (_what, spoil, expected) => {
    expect(await outcome(spoiled(spoil))).toBe(expected);
  });
});
