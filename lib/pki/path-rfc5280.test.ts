import { describe, expect, it } from "vitest";
import { rawCertificate, rawExtension as ext } from "../../test/support/raw-certificate.ts";
import {
  KEYS,
  NAMES,
  CA_BASICS,
  make,
  root,
  ca,
  type Spoil,
  spoiled,
  outcome,
  put,
  without,
  constrain,
  named,
  attribute,
  time,
  gn,
  dns,
  Y,
  subject,
  bmp,
} from "../../test/support/spoiled-path.ts";
import { fromHex, utf8 } from "../domain/bytes.ts";
import * as der from "./der-write.ts";
import { buildName } from "./name.ts";
import { OID } from "./oids.ts";

/** Corners of RFC 5280 section 6, one certificate of a path changed at a time. */

describe.each<[string, [string, Spoil, string][]]>([
  [
    "names",
    [
      [
        "of other string types, as BMPString",
        { leaf: (raw) => void (raw.issuer = der.sequence(attribute(OID.commonName, 0x1e, bmp("CA")))) },
        "ok 3",
      ],
      [
        "as TeletexString",
        { leaf: (raw) => void (raw.issuer = der.sequence(attribute(OID.commonName, 0x14, utf8("CA")))) },
        "ok 3",
      ],
      [
        "in other case and spacing",
        { leaf: (raw) => void (raw.issuer = der.sequence(attribute(OID.commonName, 0x13, utf8("  ca ")))) },
        "ok 3",
      ],
      [
        "of octets that only look alike",
        { leaf: (raw) => void (raw.issuer = buildName({ commonName: "СА" })) },
        "issuer-unknown@0",
      ],
      [
        "with a NUL behind the right ones",
        { leaf: (raw) => void (raw.issuer = der.sequence(attribute(OID.commonName, 0x0c, utf8("CA\0")))) },
        "certificate-malformed@0",
      ],
      [
        "whose attributes stand in another order",
        {
          leaf: (raw) =>
            void (raw.issuer = der.sequence(
              attribute(OID.commonName, 0x0c, utf8("CA")),
              attribute(OID.organizationName, 0x0c, utf8("Y")),
            )),
        },
        "issuer-unknown@0",
      ],
      ["empty issuer", { leaf: (raw) => void (raw.issuer = der.sequence()) }, "issuer-unknown@0"],
      ["empty subject without others", { leaf: (raw) => void (raw.subject = der.sequence()) }, "name-empty@0"],
      ["empty subject, others critical", { leaf: named(der.sequence(), dns("a.example")) }, "ok 3"],
      [
        "empty subject of a CA",
        { ca: (raw) => void (raw.subject = der.sequence()), leaf: (raw) => void (raw.issuer = der.sequence()) },
        "name-empty@1",
      ],
    ],
  ],
  [
    "key identifiers",
    [
      ["missing in the leaf", { leaf: without(OID.authorityKeyIdentifier) }, "key-identifier-missing@0"],
      ["missing in the CA", { ca: without(OID.subjectKeyIdentifier) }, "key-identifier-missing@1"],
      ["missing in the root", { root: without(OID.subjectKeyIdentifier) }, "key-identifier-missing@2"],
      [
        "of another key",
        {
          leaf: (raw) => {
            without(OID.authorityKeyIdentifier)(raw);
            raw.extensions.push(ext.aki(KEYS.other.spki));
          },
        },
        "key-identifier-mismatch@0",
      ],
      [
        "of the root by serial number alone",
        {
          root: put(
            OID.authorityKeyIdentifier,
            false,
            der.sequence(der.explicit(1, gn.directory(NAMES.root)), der.implicit(2, Uint8Array.of(7))),
          ),
        },
        "key-identifier-missing@2",
      ],
      [
        "empty",
        {
          leaf: (raw) => {
            without(OID.authorityKeyIdentifier)(raw);
            put(OID.authorityKeyIdentifier, false, der.sequence())(raw);
          },
        },
        "key-identifier-missing@0",
      ],
      ["twice", { leaf: (raw) => void raw.extensions.push(ext.aki(KEYS.ca.spki)) }, "extension-duplicate@0"],
    ],
  ],
  [
    "constraints on CAs",
    [
      [
        "a path length of 0 above a leaf",
        { ca: (raw) => void (raw.extensions[0] = ext.basicConstraints(true, 0)) },
        "ok 3",
      ],
      [
        "a path length of 0 above a CA",
        { root: (raw) => void (raw.extensions[0] = ext.basicConstraints(true, 0)) },
        "path-length-exceeded@1",
      ],
      [
        "a CA for a leaf is none of the CAs counted",
        {
          root: (raw) => void (raw.extensions[0] = ext.basicConstraints(true, 1)),
          leaf: (raw) => void raw.extensions.splice(0, 2, ...CA_BASICS),
        },
        "ok 3",
      ],
      [
        "policy constraints that aren't critical",
        { ca: put(OID.policyConstraints, false, der.sequence(der.implicit(1, Uint8Array.of(0)))) },
        "policy-unsupported@1",
      ],
      [
        "inhibitAnyPolicy that isn't critical",
        { ca: put(OID.inhibitAnyPolicy, false, der.integer(0)) },
        "policy-unsupported@1",
      ],
      [
        "a root's demand for a policy",
        { root: put(OID.policyConstraints, true, der.sequence(der.implicit(0, Uint8Array.of(0)))) },
        "policy-not-satisfied@0",
      ],
      [
        "a root that is no CA",
        { root: (raw) => void (raw.extensions[0] = ext.basicConstraints(false)) },
        "key-usage@2",
      ],
      ["a root's unknown critical extension", { root: put("1.2.3.4", true, der.nullValue()) }, "extension-unknown@2"],
      ["an expired root", { root: (raw) => void (raw.notAfter = time(0x17, "260101000000Z")) }, "expired@2"],
      ["a root with another's signature", { root: (raw) => void (raw.signer = KEYS.other) }, "signature-invalid@2"],
      [
        "a CA for servers above a client",
        {
          ca: (raw) => void raw.extensions.push(ext.extKeyUsage([OID.serverAuth])),
          leaf: (raw) => void raw.extensions.push(ext.extKeyUsage([OID.clientAuth])),
        },
        "extended-key-usage@0",
      ],
    ],
  ],
])("%s", (_group, cases) => {
  it.each(cases)("%s", async (_what, spoil, expected) => {
    expect(await outcome(spoiled(spoil))).toBe(expected);
  });
});

describe("paths", () => {
  it("over a CA's change of key: its self-issued certificate doesn't count towards a path length", async () => {
    const old = ca();
    old.extensions[0] = ext.basicConstraints(true, 0);
    const rolled = make(NAMES.ca, KEYS.other, { subject: NAMES.ca, key: KEYS.ca });
    const below = make(buildName({ commonName: "d" }), KEYS.leaf, { subject: NAMES.ca, key: KEYS.other }, false);
    const chain = [below, rolled, old].map(rawCertificate);
    expect(await outcome({ chain, roots: [rawCertificate(root())] })).toBe("ok 4");
    // One that isn't self-issued does
    const sub = make(buildName({ commonName: "Sub" }), KEYS.other, { subject: NAMES.ca, key: KEYS.ca });
    const deeper = make(
      buildName({ commonName: "d" }),
      KEYS.leaf,
      { subject: buildName({ commonName: "Sub" }), key: KEYS.other },
      false,
    );
    expect(await outcome({ chain: [deeper, sub, old].map(rawCertificate), roots: [rawCertificate(root())] })).toBe(
      "path-length-exceeded@1",
    );
  });

  it("constrain a self-issued leaf, though not a self-issued CA", async () => {
    const constrained = ca();
    constrain([gn.directory(Y)])(constrained);
    const rolled = make(NAMES.ca, KEYS.other, { subject: NAMES.ca, key: KEYS.ca });
    const good = make(subject, KEYS.leaf, { subject: NAMES.ca, key: KEYS.other }, false);
    const roots = [rawCertificate(root())];
    expect(await outcome({ chain: [good, rolled, constrained].map(rawCertificate), roots })).toBe("ok 4");
    const selfIssued = make(NAMES.ca, KEYS.leaf, { subject: NAMES.ca, key: KEYS.ca }, false);
    expect(await outcome({ chain: [selfIssued, constrained].map(rawCertificate), roots })).toBe(
      "name-constraint-violated@0",
    );
  });

  it("are found among 63 others, some unreadable, and no deeper than 10 below the root", async () => {
    const { chain, roots } = spoiled({});
    const strangers = Array.from({ length: 55 }, (_, i) => {
      const name = buildName({ commonName: `Stranger ${i}` });
      return rawCertificate(make(name, KEYS.other, { subject: NAMES.root, key: KEYS.root }));
    });
    const junk = [chain[1]!.slice(0, 100), new Uint8Array(70_000), Uint8Array.of(), fromHex("3080")];
    expect(await outcome({ chain: [chain[0]!, ...junk, ...strangers, chain[1]!], roots: [...junk, ...roots] })).toBe(
      "ok 3",
    );
    expect(await outcome({ chain: [chain[0]!, ...junk], roots })).toBe("certificate-malformed@1");
    let issuer = { subject: NAMES.root, key: KEYS.root };
    const long = Array.from({ length: 11 }, (_, i) => {
      const key = i % 2 === 0 ? KEYS.other : KEYS.ca;
      const made = make(buildName({ commonName: `CA ${i}` }), key, issuer, i < 10);
      issuer = { subject: made.subject, key };
      return rawCertificate(made);
    }).toReversed();
    expect(await outcome({ chain: long, roots })).toBe("issuer-unknown@0");
    expect(await outcome({ chain: long.slice(1), roots })).toBe("ok 11");
  });

  it("of hundreds of names under hundreds of constraints end at once", async () => {
    const hosts = Array.from({ length: 250 }, (_, i) => `h${i}.example.com`);
    const bases = Array.from({ length: 250 }, (_, i) => gn.email(`e${i}.example.com`));
    const emails = hosts.map((host) => ({ kind: "email" as const, value: `a@${host}` }));
    const start = process.cpuUsage();
    expect(await outcome(spoiled({ ca: constrain([], bases), leaf: named(subject, ...emails) }))).toBe(
      "search-limit@0",
    );
    expect(process.cpuUsage(start).user).toBeLessThan(500_000);
    const few = spoiled({ ca: constrain([], bases.slice(0, 100)), leaf: named(subject, ...emails.slice(0, 100)) });
    expect(await outcome(few)).toBe("ok 3");
  });

  it("of names of 60 KiB under hundreds of excluded ones end at once, in many paths", async () => {
    // Each of these letters becomes 18 when compared
    const long = der.sequence(attribute(OID.commonName, 0x0c, utf8("\ufdfa".repeat(20_000))));
    const bases = Array.from({ length: 200 }, (_, i) => gn.directory(buildName({ organization: `E${i}` })));
    const { chain, roots } = spoiled({ leaf: named(long) });
    const twins = Array.from({ length: 62 }, (_, i) => {
      const twin = ca();
      twin.serial = Uint8Array.of(1, i + 1);
      constrain([], bases)(twin);
      put(OID.policyConstraints, true, der.sequence(der.implicit(0, Uint8Array.of(0))))(twin);
      return rawCertificate(twin);
    });
    const start = process.cpuUsage();
    expect(await outcome({ chain: [chain[0]!, ...twins], roots })).toBe("policy-not-satisfied@0");
    expect(process.cpuUsage(start).user).toBeLessThan(500_000);
  });

  it("end at once where 64 certificates all claim to have issued each other", async () => {
    const name = buildName({ commonName: "Loop" });
    const bag = Array.from({ length: 64 }, () =>
      rawCertificate(make(name, KEYS.other, { subject: name, key: KEYS.other })),
    );
    const start = process.cpuUsage();
    expect(await outcome({ chain: bag, roots: [rawCertificate(root())] })).toBe("search-limit@0");
    expect(process.cpuUsage(start).user).toBeLessThan(2_000_000);
  });
});
