import { describe, expect, it } from "vitest";
import { rawExtension as ext } from "../../test/support/raw-certificate.ts";
import {
  CA_BASICS,
  NAMES,
  type Spoil,
  spoiled,
  outcome,
  put,
  algorithm,
  time,
  gn,
  named,
  attribute,
} from "../../test/support/spoiled-path.ts";
import { fromHex, utf8 } from "../domain/bytes.ts";
import * as der from "./der-write.ts";
import { OID } from "./oids.ts";

/** Encodings that RFC 5280 or DER forbid, one certificate of a path changed at a time. */

const SECP256K1 = fromHex(
  "3056301006072a8648ce3d020106052b8104000a03420004" +
    "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798" +
    "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
);

const MALFORMED = "certificate-malformed@0";
const commonName = (tag: number, octets: Uint8Array): Uint8Array => attribute(OID.commonName, tag, octets);
const san = (...names: Uint8Array[]) => put(OID.subjectAltName, false, der.sequence(...names));
const points = (...fields: Uint8Array[]) =>
  put(OID.cRLDistributionPoints, false, der.sequence(der.sequence(...fields)));
const qualified = (kind: string, value: Uint8Array): Uint8Array =>
  der.sequence(der.sequence(der.oid("1.2.3"), der.sequence(der.sequence(der.oid(kind), value))));

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
  [
    "distribution points",
    [
      ["with a full name", { leaf: points(der.explicit(0, der.encodeElement(0xa0, gn.uri("http://x/")))) }, "ok 3"],
      ["of a CRL issuer's", { leaf: points(der.encodeElement(0xa2, gn.directory(NAMES.root))) }, "ok 3"],
      [
        "with a name relative to the issuer's",
        { leaf: points(der.explicit(0, der.encodeElement(0xa1, commonName(0x0c, utf8("x")).slice(2)))) },
        "ok 3",
      ],
      ["without anything", { leaf: points() }, "certificate-malformed@0"],
      ["with reasons only", { leaf: points(der.implicit(1, Uint8Array.of(6, 0x40))) }, "certificate-malformed@0"],
      [
        "with an unknown reason",
        {
          leaf: points(
            der.explicit(0, der.encodeElement(0xa0, gn.uri("http://x/"))),
            der.implicit(1, Uint8Array.of(6, 0, 0x40)),
          ),
        },
        "certificate-malformed@0",
      ],
      ["with an empty name", { leaf: points(der.explicit(0)) }, "certificate-malformed@0"],
      [
        "with more than a name",
        { leaf: points(der.explicit(0, der.encodeElement(0xa0, gn.uri("http://x/")), der.nullValue())) },
        "certificate-malformed@0",
      ],
      [
        "with a CRL issuer that is no name",
        { ca: points(der.explicit(2, der.nullValue())) },
        "certificate-malformed@1",
      ],
      [
        "of the freshest CRL, malformed",
        { ca: put(OID.freshestCRL, false, der.nullValue()) },
        "certificate-malformed@1",
      ],
    ],
  ],
  [
    "names that are none",
    [
      ["a common name of BOOLEAN", { leaf: named(der.sequence(commonName(0x01, Uint8Array.of(0xff)))) }, MALFORMED],
      ["a common name of GeneralString", { leaf: named(der.sequence(commonName(0x1b, utf8("dev-1")))) }, MALFORMED],
      ["a common name of VisibleString", { leaf: named(der.sequence(commonName(0x1a, utf8("dev-1")))) }, MALFORMED],
      ["a common name of a context tag", { leaf: named(der.sequence(commonName(0x81, utf8("dev-1")))) }, MALFORMED],
      [
        "an attribute we don't know, of any type",
        { leaf: named(der.sequence(attribute("1.2.3.4", 0x01, Uint8Array.of(0xff)))) },
        "ok 3",
      ],
      ["PrintableString that isn't", { leaf: named(der.sequence(commonName(0x13, utf8("dev_1")))) }, MALFORMED],
      ["NumericString that isn't", { leaf: named(der.sequence(commonName(0x12, utf8("4a")))) }, MALFORMED],
      ["an empty DNS name", { leaf: san(gn.dns("")) }, MALFORMED],
      ["a DNS name of a space", { leaf: san(gn.dns(" ")) }, MALFORMED],
      ["a DNS name of an empty label", { leaf: san(gn.dns("a..example")) }, MALFORMED],
      ["a DNS name with an underscore", { leaf: san(gn.dns("a_b.example")) }, MALFORMED],
      ["a DNS name with its root's dot", { leaf: san(gn.dns("a.example.")) }, MALFORMED],
      ["a wildcard of part of a label", { leaf: san(gn.dns("a*.example.com")) }, MALFORMED],
      ["a wildcard", { leaf: san(gn.dns("*.example.com")) }, "ok 3"],
      ["an e-mail address without a host", { leaf: san(gn.email("ops")) }, MALFORMED],
      ["a quoted e-mail address", { leaf: san(gn.email('"a@b"@example.com')) }, "ok 3"],
      ["a relative URI", { leaf: san(gn.uri("a/b")) }, MALFORMED],
      ["a URI with half an escape", { leaf: san(gn.uri("https://a/%4")) }, MALFORMED],
      ["a URI with a space", { leaf: san(gn.uri("https://a b/")) }, MALFORMED],
      ["a URI without a host", { leaf: san(gn.uri("urn:dev:1")) }, "ok 3"],
      ["an x400Address", { leaf: san(der.explicit(3, der.sequence())) }, MALFORMED],
      ["an ediPartyName", { leaf: san(der.explicit(5, der.explicit(1, der.nullValue()))) }, MALFORMED],
      ["a registeredID cut short", { leaf: san(der.implicit(8, Uint8Array.of(0x2a, 0x86))) }, MALFORMED],
      ["an otherName without its value", { leaf: san(der.explicit(0, der.oid("1.2.3"), der.explicit(0))) }, MALFORMED],
      [
        "a directory name of BOOLEAN",
        { leaf: san(gn.directory(der.sequence(commonName(0x01, Uint8Array.of(0xff))))) },
        MALFORMED,
      ],
    ],
  ],
  [
    "what isn't used",
    [
      [
        "malformed subject information access",
        { ca: put(OID.subjectInfoAccess, false, der.nullValue()) },
        "certificate-malformed@1",
      ],
      [
        "a policy's qualifier of the wrong type",
        { leaf: put(OID.certificatePolicies, false, qualified(OID.qualifierCps, der.nullValue())) },
        MALFORMED,
      ],
      [
        "a policy's user notice",
        { leaf: put(OID.certificatePolicies, false, qualified(OID.qualifierUserNotice, der.sequence())) },
        "ok 3",
      ],
    ],
  ],
])("%s", (_group, cases) => {
  it.each(cases)("%s", async (_what, spoil, expected) => {
    expect(await outcome(spoiled(spoil))).toBe(expected);
  });
});
