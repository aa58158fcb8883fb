import "reflect-metadata";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import * as x509 from "@peculiar/x509";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tempDir } from "../../test/support/index.ts";
import { issueCrl, pem, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { openssl } from "../../test/support/judge.ts";
import { CountersignError } from "../domain/errors.ts";
import { algorithmIdentifier } from "./algorithms.ts";
import {
  assembleCrl,
  buildCrl,
  checkCrl,
  isRevoked,
  lintCrl,
  LintedCrlTbs,
  parseCrl,
  type CrlEntryParams,
} from "./crl.ts";
import { parseTbsCrl, readSignedCrl, REASONS } from "./crl-parse.ts";
import * as der from "./der-write.ts";
import { issuerFromCertificate } from "./issuer.ts";
import { OID } from "./oids.ts";
import { pemEncode } from "./pem.ts";
import { encodeTime } from "./time.ts";
import { webCryptoVerify } from "./verify.ts";

const ca = throwawayRoot({ organization: "Company X", commonName: "Root" });
const issuer = issuerFromCertificate(ca.certificate);
const thisUpdate = new Date(Math.floor(Date.now() / 1000) * 1000);
const nextUpdate = new Date(thisUpdate.getTime() + 86_400_000);
const times = { thisUpdate, nextUpdate };
const revokedAt = new Date(thisUpdate.getTime() - 3_600_000);

const reasons = Object.keys(REASONS).filter((reason) => reason !== "removeFromCRL") as NonNullable<
  CrlEntryParams["reason"]
>[];
const serial = fc
  .uint8Array({ minLength: 1, maxLength: 20 })
  .map((bytes) => Buffer.from(bytes.with(0, bytes[0]! | 1)).toString("hex"));
const entry = fc.record({
  serial,
  revokedAt: fc.integer({ min: 1_600_000_000, max: thisUpdate.getTime() / 1000 }).map((s) => new Date(s * 1000)),
  reason: fc.constantFrom(...reasons),
  invalidityDate: fc.option(
    fc.integer({ min: 1_500_000_000, max: 1_700_000_000 }).map((s) => new Date(s * 1000)),
    { nil: undefined },
  ),
});

describe("CRLs", () => {
  it("list as many as a large recall takes back", () => {
    const revoked = Array.from({ length: 100_000 }, (_, i) => ({
      serial: `01${(i + 2 ** 28).toString(16).padStart(30, "0")}`,
      revokedAt,
    }));
    const tbs = buildCrl({ issuer, number: 1n, ...times, revoked });
    expect(parseCrl(assembleCrl(lintCrl(tbs, issuer), new Uint8Array(70))).revoked.size).toBe(revoked.length);
  });

  it("read back what was built, whatever the order of entries", () => {
    const entries = fc.uniqueArray(entry, { maxLength: 20, selector: (one) => one.serial });
    fc.assert(
      fc.property(entries, fc.bigInt({ min: 0n, max: 2n ** 159n - 1n }), (revoked, number) => {
        const tbs = buildCrl({ issuer, number, ...times, revoked });
        expect(buildCrl({ issuer, number, ...times, revoked: revoked.toReversed() })).toEqual(tbs);
        const crl = parseCrl(issueCrl(ca, { number, ...times, revoked }));
        expect(crl).toMatchObject({ number, thisUpdate, nextUpdate, unsupported: undefined });
        expect(crl.revoked.size).toBe(revoked.length);
        for (const { serial: hex, ...rest } of revoked) expect(isRevoked(crl, hex)).toEqual(rest);
        expect(isRevoked(crl, "02".repeat(21))).toBeUndefined();
      }),
    );
  });

  it("say what is too long to be read, before it is signed", () => {
    const reason = "keyCompromise";
    const revoked = Array.from({ length: 215_000 }, (_, i) => ({
      ...({ serial: `7f${i.toString(16).padStart(38, "0")}`, revokedAt, reason, invalidityDate: revokedAt } as const),
    }));
    expect(() => buildCrl({ issuer, number: 1n, ...times, revoked })).toThrow(
      expect.objectContaining({
        code: "input-too-large",
        message: expect.stringMatching(/^a CRL of 215000 entries.*new key/),
      }),
    );
    for (const read of [parseCrl, parseTbsCrl, readSignedCrl]) {
      expect(() => read(new Uint8Array((16 << 20) + 1))).toThrow(/16777217 octets.*16 MiB.*300,000 entries/);
    }
  });

  it("satisfy openssl and @peculiar/x509", async () => {
    const dir = tempDir("crl");
    writeFileSync(join(dir, "ca.pem"), pem(ca.certificate));
    const bytes = issueCrl(ca, {
      number: 255n,
      ...times,
      revoked: [
        { serial: "80ff", revokedAt, reason: "keyCompromise", invalidityDate: new Date("2024-01-01") },
        { serial: "07", revokedAt },
      ],
    });
    const judged = openssl(["crl", "-noout", "-text", "-CAfile", join(dir, "ca.pem")], pemEncode("X509 CRL", bytes));
    expect(judged.text).toMatch(/verify OK/);
    expect(judged.text).toMatch(/Version 2/);
    expect(judged.text).toMatch(/Serial Number: 80FF[\s\S]*Key Compromise[\s\S]*Invalidity Date:[\s\S]*2024/);
    expect(judged.text).toMatch(/X509v3 CRL Number:\s+255/);
    const peer = new x509.X509Crl(bytes.slice().buffer);
    expect(peer.entries.map((one) => one.serialNumber)).toEqual(["07", "80ff"]);
    await checkCrl(parseCrl(bytes), ca.certificate, webCryptoVerify);
  });

  const good = { issuer, number: 1n, ...times, revoked: [] };
  it.each([
    [
      "another issuer's name",
      { ...good, issuer: { ...issuer, name: throwawayRoot({ commonName: "Other" }).certificate.subject.der } },
    ],
    ["another issuer's key identifier", { ...good, issuer: { ...issuer, ski: Uint8Array.of(1) } }],
    ["another algorithm", { ...good, issuer: { ...issuer, algorithm: "ed25519" as const } }],
    ["no time to be valid in", { ...good, nextUpdate: thisUpdate }],
    ["an entry of the future", { ...good, revoked: [{ serial: "01", revokedAt: nextUpdate }] }],
    [
      "a serial twice",
      {
        ...good,
        revoked: [
          { serial: "01", revokedAt },
          { serial: "0001", revokedAt },
        ],
      },
    ],
  ])("are refused by the linter with %s", (_what, params) => {
    expect(() => lintCrl(buildCrl(params), issuer)).toThrow(CountersignError);
  });

  it("are assembled from linted bytes only, once", () => {
    const linted = lintCrl(buildCrl(good), issuer);
    assembleCrl(linted, new Uint8Array(8));
    expect(() => assembleCrl(linted, new Uint8Array(8))).toThrow(/and once/);
    expect(() => assembleCrl(Object.create(LintedCrlTbs.prototype) as LintedCrlTbs, new Uint8Array(8))).toThrow(
      /linter/,
    );
    expect(
      () => new (LintedCrlTbs as unknown as new (...args: unknown[]) => unknown)(Symbol(), new Uint8Array(1), issuer),
    ).toThrow(/only lintCrl/);
  });

  /** A CRL with whatever extensions, signed well. */
  const signed = (extensions: Uint8Array[], entries: Uint8Array[] = [], key = ca.key): Uint8Array => {
    const aki = der.sequence(
      der.oid(OID.authorityKeyIdentifier),
      der.octetString(der.sequence(der.implicit(0, issuer.ski))),
    );
    const list = der.explicit(0, der.sequence(aki, ...extensions));
    const tbs = der.sequence(
      der.integer(1),
      algorithmIdentifier(key.algorithm),
      issuer.name,
      encodeTime(thisUpdate),
      encodeTime(nextUpdate),
      ...(entries.length > 0 ? [der.sequence(...entries)] : []),
      list,
    );
    return der.sequence(tbs, algorithmIdentifier(key.algorithm), der.bitString(key.sign(tbs)));
  };
  const extension = (oid: string, value: Uint8Array, critical = true): Uint8Array =>
    der.sequence(der.oid(oid), ...(critical ? [der.boolean(true)] : []), der.octetString(value));
  const number = extension(OID.cRLNumber, der.integer(1), false);
  const entryWith = (ext: Uint8Array): Uint8Array =>
    der.sequence(der.integer(5), encodeTime(revokedAt), der.sequence(ext));

  it.each([
    ["a delta", "crl-unsupported", signed([extension(OID.deltaCRLIndicator, der.integer(1))])],
    [
      "an indirect or partitioned one",
      "crl-unsupported",
      signed([extension(OID.issuingDistributionPoint, der.sequence())]),
    ],
    [
      "a partitioned one that isn't critical",
      "crl-unsupported",
      signed([extension(OID.issuingDistributionPoint, der.sequence(), false)]),
    ],
    ["an unknown critical extension", "crl-unsupported", signed([extension("1.2.3.4", der.integer(1))])],
    [
      "entries of other issuers",
      "crl-unsupported",
      signed([], [entryWith(extension(OID.certificateIssuer, der.sequence()))]),
    ],
    [
      "an entry's unknown critical extension",
      "crl-unsupported",
      signed([], [entryWith(extension("1.2.3.4", der.integer(1)))]),
    ],
    ["another key's signature", "crl-signature-invalid", signed([number], [], throwawayKey())],
    ["no CRL number", "crl-unsupported", signed([])],
    ["a critical CRL number", "crl-unsupported", signed([extension(OID.cRLNumber, der.integer(1))])],
    [
      "one of user certificates only",
      "crl-unsupported",
      signed([number, extension(OID.issuingDistributionPoint, der.sequence(der.implicit(1, Uint8Array.of(0xff))))]),
    ],
    ["a pointer to deltas, critical", "crl-unsupported", signed([number, extension(OID.freshestCRL, der.sequence())])],
    ["a signature algorithm that isn't the key's", "crl-unsupported", signed([], [], throwawayKey("ed25519"))],
  ])("are refused for revocation: %s", async (_what, rule, bytes) => {
    await expect(checkCrl(parseCrl(bytes), ca.certificate, webCryptoVerify)).rejects.toMatchObject({
      code: "crl-invalid",
      details: { rule },
    });
  });

  it("of another CA, or of one that may not sign CRLs, are refused", async () => {
    const crl = parseCrl(issueCrl(ca));
    const other = throwawayRoot({ commonName: "Other" }).certificate;
    await expect(checkCrl(crl, other, webCryptoVerify)).rejects.toMatchObject({ details: { rule: "crl-issuer" } });
    const rekeyed = throwawayRoot({ organization: "Company X", commonName: "Root" }).certificate;
    await expect(checkCrl(crl, rekeyed, webCryptoVerify)).rejects.toMatchObject({ details: { rule: "crl-other-key" } });
    const mute = { ...ca.certificate, keyUsage: ["keyCertSign" as const] };
    await expect(checkCrl(crl, mute, webCryptoVerify)).rejects.toMatchObject({ details: { rule: "crl-issuer" } });
  });

  it("mutated, cut or random end in a value or a typed refusal", () => {
    const bytes = issueCrl(ca, {
      ...times,
      revoked: [
        { serial: "05", revokedAt, reason: "superseded" },
        { serial: "06", revokedAt },
      ],
    });
    const change = fc.array(fc.tuple(fc.nat({ max: bytes.length - 1 }), fc.integer({ min: 0, max: 255 })), {
      maxLength: 3,
    });
    fc.assert(
      fc.property(change, fc.nat({ max: 10 }), (changes, cut) => {
        const changed = bytes.slice(0, bytes.length - (cut < 8 ? 0 : cut));
        for (const [at, value] of changes) if (at < changed.length) changed[at] = value;
        try {
          parseCrl(changed);
        } catch (error) {
          expect(error).toBeInstanceOf(CountersignError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it("without nextUpdate, or of version 1, are refused", () => {
    const withoutNext = der.sequence(
      der.integer(1),
      algorithmIdentifier("ed25519"),
      issuer.name,
      encodeTime(thisUpdate),
    );
    const version1 = der.sequence(
      algorithmIdentifier("ed25519"),
      issuer.name,
      encodeTime(thisUpdate),
      encodeTime(nextUpdate),
    );
    for (const tbs of [withoutNext, version1]) {
      expect(() =>
        parseCrl(der.sequence(tbs, algorithmIdentifier("ed25519"), der.bitString(new Uint8Array(64)))),
      ).toThrow(/nextUpdate|version/);
    }
  });
});
