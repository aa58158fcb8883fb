import { describe, expect, it } from "vitest";
import {
  NAMES,
  type Spoil,
  spoiled,
  outcome,
  put,
  constrain,
  named,
  attribute,
  gn,
  dns,
  email,
  uri,
  ip,
  Y,
  subject,
  withMail,
} from "../../test/support/spoiled-path.ts";
import { utf8 } from "../domain/bytes.ts";
import * as der from "./der-write.ts";
import { buildName } from "./name.ts";
import { OID } from "./oids.ts";

/** SubjectAltName of one SmtpUTF8Mailbox (RFC 9598). */
const mailbox = (address: string): Uint8Array =>
  der.sequence(der.explicit(0, der.oid(OID.smtpUtf8Mailbox), der.explicit(0, der.encodeElement(0x0c, utf8(address)))));

/** Name constraints (RFC 5280 sections 4.2.1.10 and 6.1.3 b, c), one certificate of a path changed at a time. */

describe.each<[string, [string, Spoil, string][]]>([
  [
    "name constraints",
    [
      ["met by the subject", { ca: constrain([gn.directory(Y)]) }, "ok 3"],
      [
        "not met by the subject",
        { ca: constrain([gn.directory(buildName({ organization: "Z" }))]) },
        "name-constraint-violated@0",
      ],
      ["not critical, though met", { ca: constrain([gn.directory(Y)], [], false) }, "extension-critical@1"],
      [
        "met by the subject but not by a directory name beside it",
        {
          ca: constrain([gn.directory(Y)]),
          leaf: named(subject, { kind: "directory", value: buildName({ organization: "Z" }) }),
        },
        "name-constraint-violated@0",
      ],
      [
        "not met, the subject empty",
        { ca: constrain([gn.directory(Y)]), leaf: named(der.sequence(), dns("a.example")) },
        "ok 3",
      ],
      ["excluding everything", { ca: constrain([], [gn.directory(der.sequence())]) }, "name-constraint-violated@0"],
      [
        "permitted and excluded at once",
        { ca: constrain([gn.directory(Y)], [gn.directory(subject)]) },
        "name-constraint-violated@0",
      ],
      [
        "of the root",
        { root: constrain([gn.directory(buildName({ commonName: "CA" }))]) },
        "name-constraint-violated@0",
      ],
      ["of the root, on the CA", { root: constrain([], [gn.directory(NAMES.ca)]) }, "name-constraint-violated@1"],
      [
        "of a directory name that is none",
        { ca: constrain([], [gn.directory(der.sequence(attribute(OID.commonName, 0x13, utf8("a_b"))))]) },
        "name-constraint-unsupported@0",
      ],
      ["empty", { ca: put(OID.nameConstraints, true, der.sequence()) }, "certificate-malformed@1"],
      [
        "with an empty list",
        { ca: put(OID.nameConstraints, true, der.sequence(der.explicit(0))) },
        "certificate-malformed@1",
      ],
      [
        "with a minimum",
        {
          ca: put(
            OID.nameConstraints,
            true,
            der.sequence(der.explicit(0, der.sequence(gn.dns("x"), der.implicit(0, Uint8Array.of(1))))),
          ),
        },
        "certificate-malformed@1",
      ],
      ["in a leaf", { leaf: constrain([gn.directory(Y)]) }, "basic-constraints@0"],
      ["DNS, met", { ca: constrain([gn.dns("example.com")]), leaf: named(subject, dns("a.b.example.com")) }, "ok 3"],
      [
        "DNS, one of two not met",
        { ca: constrain([gn.dns("example.com")]), leaf: named(subject, dns("example.com"), dns("b.org")) },
        "name-constraint-violated@0",
      ],
      [
        "DNS, a suffix that isn't a label",
        { ca: constrain([gn.dns("example.com")]), leaf: named(subject, dns("badexample.com")) },
        "name-constraint-violated@0",
      ],
      [
        "DNS, a wildcard within",
        { ca: constrain([gn.dns("example.com")]), leaf: named(subject, dns("*.example.com")) },
        "ok 3",
      ],
      [
        "DNS, a wildcard that reaches out",
        { ca: constrain([gn.dns("a.example.com")]), leaf: named(subject, dns("*.example.com")) },
        "name-constraint-violated@0",
      ],
      [
        "DNS, a wildcard over an excluded name",
        { ca: constrain([], [gn.dns("a.example.com")]), leaf: named(subject, dns("*.example.com")) },
        "name-constraint-violated@0",
      ],
      [
        "DNS, a leading dot",
        { ca: constrain([gn.dns(".example.com")]), leaf: named(subject, dns("a.example.com")) },
        "name-constraint-unsupported@0",
      ],
      [
        "DNS, a wildcard in the constraint",
        { ca: constrain([gn.dns("*.example.com")]), leaf: named(subject, dns("a.example.com")) },
        "name-constraint-unsupported@0",
      ],
      [
        "DNS, in a common name",
        { ca: constrain([gn.dns("example.com")]), leaf: named(buildName({ commonName: "a.evil.com" })) },
        "name-constraint-violated@0",
      ],
      [
        "DNS, in a common name, as a wildcard",
        { ca: constrain([gn.dns("example.com")]), leaf: named(buildName({ commonName: "*.evil.com" })) },
        "name-constraint-violated@0",
      ],
      [
        "DNS, in a common name, with white space around",
        { ca: constrain([gn.dns("example.com")]), leaf: named(buildName({ commonName: " a.evil.com" })) },
        "name-constraint-unsupported@0",
      ],
      [
        "e-mail, an internationalised mailbox outside what is permitted",
        { ca: constrain([gn.email("example.com")]), leaf: put(OID.subjectAltName, false, mailbox("ü@evil.com")) },
        "name-constraint-unsupported@0",
      ],
      [
        "e-mail, an internationalised mailbox in what is excluded",
        { ca: constrain([], [gn.email("evil.com")]), leaf: put(OID.subjectAltName, false, mailbox("ü@evil.com")) },
        "name-constraint-unsupported@0",
      ],
      [
        "DNS alone, an internationalised mailbox",
        { ca: constrain([gn.dns("example.com")]), leaf: put(OID.subjectAltName, false, mailbox("ü@evil.com")) },
        "ok 3",
      ],
      [
        "excluding an organization that the leaf writes as NumericString",
        {
          ca: constrain([], [gn.directory(buildName({ organization: "47" }))]),
          leaf: named(der.sequence(attribute(OID.organizationName, 0x12, utf8("47")))),
        },
        "name-constraint-unsupported@0",
      ],
      [
        "e-mail, in the subject, IA5String",
        { ca: constrain([gn.email("example.com")]), leaf: named(withMail("a@evil.com")) },
        "name-constraint-violated@0",
      ],
      [
        "e-mail, in the subject, met",
        { ca: constrain([gn.email("example.com")]), leaf: named(withMail("a@EXAMPLE.com")) },
        "ok 3",
      ],
      [
        "e-mail, in the subject as UTF8String",
        { ca: constrain([gn.email("example.com")]), leaf: named(withMail("a@example.com", 0x0c)) },
        "name-constraint-unsupported@0",
      ],
      [
        "e-mail, a host below the one named",
        { ca: constrain([gn.email("example.com")]), leaf: named(subject, email("a@b.example.com")) },
        "name-constraint-violated@0",
      ],
      [
        "e-mail, a domain",
        { ca: constrain([gn.email(".example.com")]), leaf: named(subject, email("a@b.example.com")) },
        "ok 3",
      ],
      [
        "e-mail, another's mailbox in other case",
        { ca: constrain([gn.email("ops@example.com")]), leaf: named(subject, email("Ops@example.com")) },
        "name-constraint-violated@0",
      ],
      [
        "e-mail, two at signs",
        { ca: constrain([gn.email("example.com")]), leaf: named(subject, email("a@b@example.com")) },
        "name-constraint-unsupported@0",
      ],
      [
        "URI, met",
        { ca: constrain([gn.uri("a.example.com")]), leaf: named(subject, uri("https://a.example.com:8443/x")) },
        "ok 3",
      ],
      [
        "URI, below a host",
        { ca: constrain([gn.uri("example.com")]), leaf: named(subject, uri("https://a.example.com/")) },
        "name-constraint-violated@0",
      ],
      [
        "URI, credentials before the host",
        { ca: constrain([gn.uri("example.com")]), leaf: named(subject, uri("https://example.com@evil.com/")) },
        "name-constraint-unsupported@0",
      ],
      [
        "URI, without a host",
        { ca: constrain([gn.uri("example.com")]), leaf: named(subject, uri("urn:dev:1")) },
        "name-constraint-unsupported@0",
      ],
      ["IP, met", { ca: constrain([gn.ip("10.0.0.0", "255.0.0.0")]), leaf: named(subject, ip("10.200.3.4")) }, "ok 3"],
      [
        "IP, not met",
        { ca: constrain([gn.ip("10.0.0.0", "255.0.0.0")]), leaf: named(subject, ip("11.0.0.1")) },
        "name-constraint-violated@0",
      ],
      [
        "IP, excluded",
        { ca: constrain([], [gn.ip("0.0.0.0", "0.0.0.0")]), leaf: named(subject, ip("11.0.0.1")) },
        "name-constraint-violated@0",
      ],
      [
        "IP, of the other version",
        { ca: constrain([gn.ip("10.0.0.0", "255.0.0.0")]), leaf: named(subject, ip("2001:db8::1")) },
        "name-constraint-violated@0",
      ],
      [
        "IP, a mask with holes",
        { ca: constrain([gn.ip("10.0.0.0", "255.0.255.0")]), leaf: named(subject, ip("10.0.0.1")) },
        "name-constraint-unsupported@0",
      ],
      [
        "IP, a mask of no length",
        { ca: constrain([der.implicit(7, Uint8Array.of(10, 0, 0, 0))]) },
        "name-constraint-unsupported@0",
      ],
      [
        "of an unknown form that the leaf doesn't have",
        { ca: constrain([der.implicit(8, Uint8Array.of(42))]) },
        "ok 3",
      ],
      [
        "of an unknown form that it has",
        {
          ca: constrain([der.implicit(8, Uint8Array.of(42))]),
          leaf: put(OID.subjectAltName, false, der.sequence(der.implicit(8, Uint8Array.of(42)))),
        },
        "name-constraint-unsupported@0",
      ],
    ],
  ],
])("%s", (_group, cases) => {
  it.each(cases)("%s", async (_what, spoil, expected) => {
    expect(await outcome(spoiled(spoil))).toBe(expected);
  });
});
