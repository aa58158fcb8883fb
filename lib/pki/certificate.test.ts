import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { issue, issueCa, pem, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { openssl } from "../../test/support/judge.ts";
import {
  rawCertificate,
  rawDefaults,
  rawExtension as ext,
  type RawCertificate,
} from "../../test/support/raw-certificate.ts";
import { CountersignError, isCountersignError } from "../domain/errors.ts";
import { algorithmIdentifier } from "./algorithms.ts";
import { parseCertificate, parseCertificatesPem } from "./certificate.ts";
import * as der from "./der-write.ts";
import { ipOctets } from "./general-name.ts";
import { buildName } from "./name.ts";
import { OID } from "./oids.ts";
import { pemEncode } from "./pem.ts";

const key = throwawayKey();
const at = new Date(Date.UTC(2026, 10, 22));
const subject = buildName({ commonName: "x" });
const base = (): RawCertificate =>
  rawDefaults({
    subject,
    key,
    issuer: { subject, key },
    extensions: [ext.keyUsage(["digitalSignature"])],
    serial: 1,
    at,
  });

describe("certificates", () => {
  it("say what openssl says", () => {
    const root = throwawayRoot({ organization: "X", commonName: "Root" });
    const infra = issueCa(root, { commonName: "CA" }, { pathLen: 3, crlUrl: "http://crl.example/x.crl" });
    const parsed = infra.certificate;
    const judged = openssl(
      ["x509", "-noout", "-serial", "-subject", "-issuer", "-dates", "-ext", "subjectKeyIdentifier"],
      pem(parsed),
    ).text;
    expect(judged).toContain(`serial=${parsed.serial.toUpperCase()}`);
    expect(judged).toContain("subject=CN = CA");
    expect(judged).toContain("issuer=O = X, CN = Root");
    expect(Date.parse(/notAfter=(.*)/.exec(judged)![1]!)).toBe(parsed.notAfter.getTime());
    expect(judged.replaceAll(":", "").toLowerCase()).toContain(Buffer.from(parsed.ski!).toString("hex"));
    expect(parsed).toMatchObject({
      basicConstraints: { ca: true, pathLen: 3 },
      keyUsage: ["keyCertSign", "cRLSign"],
      crlUrls: ["http://crl.example/x.crl"],
      selfIssued: false,
      signatureScheme: "ecdsa-sha256",
    });
  });

  it("read their alternative names", () => {
    const san = ext.san([
      { kind: "dns", value: "a.b" },
      { kind: "ip", value: ipOctets("::1") },
      { kind: "uri", value: "urn:x:y" },
    ]);
    const parsed = parseCertificate(rawCertificate({ ...base(), extensions: [san] }));
    expect(parsed.san).toEqual([
      { kind: "dns", value: "a.b" },
      { kind: "ip", value: ipOctets("0:0:0:0:0:0:0:1") },
      { kind: "uri", value: "urn:x:y" },
    ]);
  });

  it.each<[string, string, Partial<RawCertificate>]>([
    ["of version 1", "version", { version: 1, extensions: [] }],
    ["of version 2", "version", { version: 2 }],
    ["with serial number 0", "serial", { serial: Uint8Array.of(0) }],
    ["with a negative serial number", "serial", { serial: Uint8Array.of(0x80) }],
    ["with a serial number of 21 octets", "der-invalid", { serial: new Uint8Array(21).fill(1) }],
    ["with two algorithms", "algorithm-mismatch", { outerAlgorithm: algorithmIdentifier("ed25519") }],
    [
      "with an extension twice",
      "duplicate-extension",
      { extensions: [ext.any("1.2.3", false), ext.any("1.2.3", true)] },
    ],
    ["with a malformed known extension", "der-invalid", { extensions: [ext.any(OID.basicConstraints, true)] }],
    [
      "with cA FALSE spelt out",
      "der-invalid",
      { extensions: [ext.any(OID.basicConstraints, true, der.sequence(der.boolean(false)))] },
    ],
    ["with an empty extKeyUsage", "der-invalid", { extensions: [ext.any(OID.extKeyUsage, false, der.sequence())] }],
    [
      "with octets after an extension's value",
      "der-invalid",
      { extensions: [ext.any(OID.extKeyUsage, false, Uint8Array.of(...der.sequence(der.oid("1.2")), 0))] },
    ],
    [
      "with a NUL in a DNS name",
      "der-invalid",
      { extensions: [ext.any(OID.subjectAltName, false, der.sequence(der.implicit(2, Uint8Array.of(97, 0, 98))))] },
    ],
    [
      "with an IP address of 5 octets",
      "der-invalid",
      { extensions: [ext.any(OID.subjectAltName, false, der.sequence(der.implicit(7, new Uint8Array(5))))] },
    ],
    [
      "with a subtree minimum",
      "der-invalid",
      {
        extensions: [
          ext.any(
            OID.nameConstraints,
            true,
            der.sequence(
              der.explicit(0, der.sequence(der.implicit(2, Uint8Array.of(97)), der.implicit(0, Uint8Array.of(1)))),
            ),
          ),
        ],
      },
    ],
    [
      "with empty name constraints",
      "der-invalid",
      { extensions: [ext.any(OID.nameConstraints, true, der.sequence())] },
    ],
    [
      "with half an AKI",
      "der-invalid",
      { extensions: [ext.any(OID.authorityKeyIdentifier, false, der.sequence(der.implicit(2, Uint8Array.of(1))))] },
    ],
    [
      "with too many extensions",
      "der-invalid",
      { extensions: Array.from({ length: 65 }, (_, i) => ext.any(`1.2.3.${i}`, false)) },
    ],
    [
      "with a GeneralizedTime before 2050",
      "der-invalid",
      { notAfter: der.encodeElement(0x18, new TextEncoder().encode("20300101000000Z")) },
    ],
  ])("%s are refused", (_what, rule, change) => {
    const bytes = rawCertificate({ ...base(), ...change });
    try {
      parseCertificate(bytes);
    } catch (error) {
      if (!isCountersignError(error)) throw error;
      return expect(error.details["rule"] ?? error.code).toBe(rule);
    }
    throw new Error("accepted");
  });

  it("with an unknown algorithm parse, and name none", () => {
    const pss = der.sequence(der.oid("1.2.840.113549.1.1.10"));
    expect(
      parseCertificate(rawCertificate({ ...base(), innerAlgorithm: pss, outerAlgorithm: pss })).signatureScheme,
    ).toBeUndefined();
  });

  it("above 64 KiB, with trailing octets, or as a private key's PEM are refused", () => {
    const good = rawCertificate(base());
    expect(() => parseCertificate(new Uint8Array(64 * 1024 + 1))).toThrow(
      expect.objectContaining({ code: "input-too-large" }) as Error,
    );
    expect(() => parseCertificate(Uint8Array.of(...good, 0))).toThrow(/after the last element/);
    const text = pem(good, good);
    expect(parseCertificatesPem(`${text}\0`)).toHaveLength(2);
    expect(() => parseCertificatesPem(text + pemEncode("PRIVATE KEY", good))).toThrow(/remove the key/);
  });

  it("mutated, cut or random end in a value or a typed refusal", () => {
    const root = throwawayRoot({ commonName: "Root" });
    const linux = issueCa(
      root,
      { organization: "Y", commonName: "Y" },
      { profile: "intermediate-linux", permittedNames: [buildName({ organization: "Y" })], crlUrl: "http://x/y" },
    );
    const device = issue(root, "server", { commonName: "s" }, throwawayKey().spki, {
      san: [{ kind: "dns", value: "a.b" }],
      days: 30,
    });
    const samples = [linux.certificate.der, device.der];
    const edit = fc.tuple(
      fc.nat({ max: 1 }),
      fc.array(fc.tuple(fc.nat({ max: 2000 }), fc.integer({ min: 0, max: 255 })), { maxLength: 4 }),
      fc.nat({ max: 60 }),
    );
    let read = 0;
    fc.assert(
      fc.property(edit, ([sample, changes, cut]) => {
        const bytes = samples[sample]!.slice(0, samples[sample]!.length - (cut < 50 ? 0 : cut));
        for (const [where, value] of changes) bytes[where % bytes.length] = value;
        try {
          parseCertificate(bytes);
          read++;
        } catch (error) {
          expect(error).toBeInstanceOf(CountersignError);
        }
      }),
      { numRuns: 4000 },
    );
    expect(read).toBeGreaterThan(100);
  });

  it("nested or long to excess are refused in linear time", () => {
    const deep = new Uint8Array(60_000).fill(0x30);
    const many = der.sequence(...Array.from({ length: 20_000 }, () => der.sequence()));
    const started = performance.now();
    for (const bytes of [deep, many]) expect(() => parseCertificate(bytes)).toThrow(CountersignError);
    expect(performance.now() - started).toBeLessThan(5000);
  });
});
