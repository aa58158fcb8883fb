import { describe, expect, it } from "vitest";
import { throwawayKey, throwawayRoot, issueCa } from "../../test/support/issuing.ts";
import { equalBytes, fromHex } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { parseCertificate } from "./certificate.ts";
import { issuerFromCertificate, validityFor, type IssuerInfo } from "./issuer.ts";
import { assembleCertificate, LintedTbs, lintTbs } from "./lint.ts";
import { buildName } from "./name.ts";
import { OID } from "./oids.ts";
import { PROFILES, type Profile, type ProfileName } from "./profiles.ts";
import { buildTbs, type TbsParams } from "./tbs.ts";
import { NO_EXPIRY } from "./time.ts";

const root = throwawayRoot({ commonName: "Root" });
const ca = issueCa(root, { commonName: "CA" }, { pathLen: 1 });
const issuer = issuerFromCertificate(ca.certificate);
// After the CA was made, or it wouldn't be valid yet
const now = new Date();
const key = throwawayKey();
const serial = fromHex("4142434445464748494a4b4c4d4e4f50");

function params(changes: Partial<TbsParams> = {}): TbsParams {
  return {
    issuer,
    serial,
    ...validityFor(PROFILES.ldevid, now, issuer),
    subject: { commonName: "dev-1" },
    spki: key.spki,
    ...changes,
  };
}

/** The broken rules, when `built` is linted as `name`. */
function rules(
  name: ProfileName,
  built: Partial<Profile>,
  changes: Partial<TbsParams> = {},
  by: IssuerInfo = issuer,
): string {
  const tbs = buildTbs({ ...PROFILES[name], ...built }, params(changes));
  try {
    lintTbs(tbs, PROFILES[name], by);
    return "";
  } catch (error) {
    if (!(error instanceof CountersignError)) throw error;
    return String(error.details["rules"] ?? error.code);
  }
}

const seconds = (date: Date, more: number): Date => new Date(date.getTime() + more * 1000);
const valid = params();
const hardware = {
  kind: "hardware-module",
  value: { hwType: "1.3.6.1.4.1.99999.1", hwSerialNum: Uint8Array.of(1, 2, 3) },
} as const;
const otherIssuer: IssuerInfo = { ...issuer, algorithm: "ecdsa-p384-sha384" };

describe("the linter", () => {
  it("passes what keeps to its profile", () => {
    expect(rules("ldevid", {})).toBe("");
    expect(rules("ldevid", {}, { subject: { organization: "Y", commonName: "a:b.c_d-e" }, crlUrl: "http://x/y" })).toBe(
      "",
    );
    expect(rules("idevid", {})).toBe("");
    expect(rules("intermediate-embedded", {}, { pathLen: 0 })).toBe("");
  });

  it.each<[string, ProfileName, Partial<Profile>, Partial<TbsParams>]>([
    ["serial", "ldevid", {}, { serial: fromHex("41424344454647") }],
    ["signature-algorithm", "ldevid", {}, { issuer: otherIssuer }],
    ["issuer-name", "ldevid", {}, { issuer: { ...issuer, name: buildName({ commonName: "ca" }) } }],
    ["self-signed", "ldevid", {}, { spki: ca.key.spki }],
    ["self-signed", "intermediate-embedded", {}, { subject: { commonName: "CA" }, pathLen: 0 }],
    ["validity", "ldevid", {}, { notBefore: seconds(issuer.notBefore, -1) }],
    ["validity", "ldevid", {}, { notAfter: seconds(issuer.notAfter, 1) }],
    ["validity", "ldevid", {}, { notAfter: valid.notBefore }],
    ["validity", "ldevid", {}, { notAfter: seconds(valid.notBefore, 1097 * 86_400) }],
    ["key", "server", {}, { spki: throwawayKey("ed25519").spki, san: [{ kind: "dns", value: "x" }] }],
    ["subject", "ldevid", {}, { subject: { commonName: "no spaces" } }],
    ["subject", "ldevid", {}, { subject: { organization: "x" } }],
    ["subject", "ldevid", {}, { subject: { commonName: "dev-1", serialNumber: "1" } }],
    ["subject", "ldevid", {}, { subject: { commonName: "dev-1", country: "DE" } }],
    [
      "basic-constraints,key-usage",
      "ldevid",
      { basicConstraints: PROFILES.root.basicConstraints, keyUsage: PROFILES.root.keyUsage },
      {},
    ],
    ["basic-constraints", "intermediate-embedded", {}, { pathLen: 1 }],
    ["basic-constraints", "intermediate-embedded", {}, { pathLen: undefined }],
    ["basic-constraints", "intermediate-embedded", {}, { pathLen: 200 }],
    ["key-usage", "ldevid", { keyUsage: ["digitalSignature", "keyAgreement"] }, {}],
    ["extension-set,extended-key-usage", "ldevid", { extKeyUsage: [] }, {}],
    ["extended-key-usage", "ldevid", { extKeyUsage: [OID.serverAuth] }, {}],
    ["extended-key-usage", "ldevid", { extKeyUsage: [OID.clientAuth, OID.serverAuth] }, {}],
    ["extended-key-usage", "ldevid", { extKeyUsage: [OID.clientAuth, OID.clientAuth] }, {}],
    ["extension-set,extended-key-usage", "idevid", { extKeyUsage: [OID.clientAuth] }, {}],
    ["authority-key-identifier", "ldevid", {}, { issuer: { ...issuer, ski: Uint8Array.of(1) } }],
    ["extension-set,alternative-names", "ldevid", {}, { san: [{ kind: "dns", value: "x.example" }] }],
    ["alternative-names", "server", {}, { san: [{ kind: "uri", value: "http://x" }] }],
    ["alternative-names", "server", {}, { san: [{ kind: "dns", value: "*.example" }] }],
    ["alternative-names", "server", {}, { san: [{ kind: "dns", value: "a..b" }] }],
    ["extension-set", "server", {}, {}],
    ["extension-set", "intermediate-embedded", {}, { pathLen: 0, permittedNames: [buildName({ organization: "Y" })] }],
    ["extension-set", "intermediate-linux", {}, { pathLen: 0 }],
    ["name-constraints", "intermediate-linux", {}, { pathLen: 0, permittedNames: [buildName({})] }],
    ["extension-set", "hub-verification", {}, { crlUrl: "http://x/y" }],
    ["extension-set", "ocsp-responder", { ocspNoCheck: false }, {}],
    ["extension-set", "ldevid", { ocspNoCheck: true }, {}],
    ["subject", "station", {}, { subject: { organization: "Y", organizationalUnit: "operator", commonName: "s" } }],
    ["subject", "station", {}, { subject: { organization: "Y", commonName: "s" } }],
    ["alternative-names", "idevid", {}, { san: [{ kind: "dns", value: "x.example" }] }],
    ["alternative-names", "idevid", {}, { san: [hardware, hardware] }],
    ["extension-set,alternative-names", "ldevid", {}, { san: [hardware] }],
  ])("refuses by rule %s (%s, case %#)", (rule, name, built, changes) => {
    const short: Partial<TbsParams> = ["server", "hub-verification", "ocsp-responder"].includes(name)
      ? { notAfter: seconds(valid.notBefore, 86_400) }
      : {};
    expect(rules(name, built, { ...short, ...changes })).toBe(rule);
  });

  it("holds a CA below its issuer's path length, and lets none be made where that is 0", () => {
    expect(rules("intermediate-embedded", {}, { pathLen: 0 }, { ...issuer, pathLen: 0 })).toBe("basic-constraints");
    expect(rules("intermediate-embedded", {}, { pathLen: 3 }, { ...issuer, pathLen: 4 })).toBe("");
    expect(rules("ldevid", {}, {}, { ...issuer, pathLen: 0 })).toBe("");
  });

  it("allows endless validity only to profiles that have it, under an issuer that has it", () => {
    const endless = { ...issuer, notAfter: NO_EXPIRY };
    expect(rules("idevid", {}, { issuer: endless, notAfter: NO_EXPIRY }, endless)).toBe("");
    expect(rules("idevid", {}, { notAfter: NO_EXPIRY })).toBe("validity");
    expect(rules("ldevid", {}, { issuer: endless, notAfter: NO_EXPIRY }, endless)).toBe("validity");
  });

  it("refuses weak keys and malformed bytes", () => {
    expect(rules("ldevid", {}, { spki: key.spki.with(90, key.spki[90]! ^ 1) })).toBe("key-weak");
    expect(rules("ldevid", {}, { serial: new Uint8Array(16) })).toBe("certificate-invalid");
    expect(() => lintTbs(new Uint8Array(3), PROFILES.ldevid, issuer)).toThrow(CountersignError);
  });

  it("refuses every change of a single octet in the extensions of a device's certificate", () => {
    const tbs = buildTbs(PROFILES.ldevid, valid);
    const from = indexOfExtensions(tbs);
    expect(tbs.length - from).toBeGreaterThan(100);
    for (let at = from; at < tbs.length; at++) {
      for (const flip of [1, 2, 4, 8, 16, 32, 64, 128, 255]) {
        const changed = tbs.with(at, tbs[at]! ^ flip);
        expect(() => lintTbs(changed, PROFILES.ldevid, issuer), `octet ${at} ^ ${flip}`).toThrow(CountersignError);
      }
    }
  });
});

function indexOfExtensions(tbs: Uint8Array): number {
  const spkiEnd = Buffer.from(tbs).indexOf(Buffer.from(key.spki)) + key.spki.length;
  expect(tbs[spkiEnd]).toBe(0xa3);
  return spkiEnd;
}

describe("LintedTbs", () => {
  const lint = (): LintedTbs => lintTbs(buildTbs(PROFILES.ldevid, valid), PROFILES.ldevid, issuer);

  it("becomes one certificate, once", () => {
    const linted = lint();
    const certificate = parseCertificate(assembleCertificate(linted, ca.key.sign(linted.bytes)));
    expect(certificate.subject.cn).toBe("dev-1");
    expect(() => assembleCertificate(linted, new Uint8Array(1))).toThrow(/used already/);
  });

  it("can't be made or imitated outside the linter", () => {
    const anyClass = LintedTbs as unknown as new (...args: unknown[]) => LintedTbs;
    expect(() => new anyClass(Symbol("LintedTbs"), valid.spki, "ldevid", issuer)).toThrow(/only lintTbs/);
    const imitation = Object.create(LintedTbs.prototype, { bytes: { value: valid.spki } }) as LintedTbs;
    expect(() => assembleCertificate(imitation, new Uint8Array(1))).toThrow(/passed the linter/);
    const copy = { ...lint() } as LintedTbs;
    expect(() => assembleCertificate(copy, new Uint8Array(1))).toThrow(/passed the linter/);
    for (const none of [undefined, null, "x", valid.spki]) {
      expect(() => assembleCertificate(none as unknown as LintedTbs, new Uint8Array(1))).toThrow(CountersignError);
    }
  });

  it("keeps its bytes when the caller's or its own copies are changed", () => {
    const tbs = buildTbs(PROFILES.ldevid, valid);
    const before = tbs.slice();
    const linted = lintTbs(tbs, PROFILES.ldevid, issuer);
    tbs.fill(0);
    linted.bytes.fill(0);
    expect(equalBytes(linted.bytes, before)).toBe(true);
    expect(() => Object.assign(linted, { signatureAlgorithm: "ed25519" })).toThrow(TypeError);
  });
});

describe("the linter's short way", () => {
  const spkis = Array.from({ length: 4 }, () => throwawayKey().spki);
  const verdict = (tbs: Uint8Array, profile: Profile, by: IssuerInfo): string => {
    try {
      return `passed as ${lintTbs(tbs, profile, by).profile}`;
    } catch (error) {
      if (!(error instanceof CountersignError)) throw error;
      return `${error.code}: ${error.message}`;
    }
  };
  const make = (i: number, changes: Partial<TbsParams> = {}): Uint8Array =>
    buildTbs(PROFILES.ldevid, params({ subject: { commonName: `dev-${i}` }, spki: spkis[i % 4]!, ...changes }));

  it("says of every single changed octet what a linter says that never saw another certificate", () => {
    const warm = { ...issuer };
    for (let i = 0; i < 4; i++) lintTbs(make(i, { issuer: warm, crlUrl: "http://x/y.crl" }), PROFILES.ldevid, warm);
    const good = make(5, { crlUrl: "http://x/y.crl" });
    expect(verdict(good, PROFILES.ldevid, warm)).toBe("passed as ldevid");
    let passed = 0;
    for (let at = 0; at < good.length; at++) {
      for (const flip of [0x01, 0x80, 0xff, 0x20]) {
        const changed = good.with(at, good[at]! ^ flip);
        const said = verdict(changed, PROFILES.ldevid, warm);
        // A copy of the issuer has no memory
        expect(said, `octet ${at} ^ ${flip}`).toBe(verdict(changed, PROFILES.ldevid, { ...issuer }));
        if (said.startsWith("passed")) passed++;
      }
    }
    // Some octets are free: the serial number's, the name's, the last digits of the times
    expect(passed).toBeGreaterThan(20);
    expect(passed).toBeLessThan(good.length);
  });

  it("isn't taken for another issuer, profile, path length or key than it was learnt under", () => {
    const warm = { ...issuer, pathLen: 1 as number | undefined };
    const profile = PROFILES["intermediate-embedded"];
    const tbs = buildTbs(profile, params({ issuer: warm, subject: { commonName: "Below" }, pathLen: 0 }));
    expect(verdict(tbs, profile, warm)).toBe("passed as intermediate-embedded");
    expect(verdict(tbs, profile, warm)).toBe("passed as intermediate-embedded");
    expect(verdict(tbs, PROFILES["intermediate-linux"], warm)).toContain("profile-violation");
    expect(verdict(tbs, PROFILES.ldevid, warm)).toContain("profile-violation");
    // Whoever writes into an issuer gets the long way
    warm.pathLen = 0;
    expect(verdict(tbs, profile, warm)).toContain("path length");
    warm.pathLen = 1;
    const { ski, name, spki } = warm;
    warm.ski = ski.with(0, ski[0]! ^ 1);
    expect(verdict(tbs, profile, warm)).toContain("authority key identifier");
    Object.assign(warm, { ski, name: buildName({ commonName: "Another" }) });
    expect(verdict(tbs, profile, warm)).toContain("issuer's name");
    Object.assign(warm, { name, spki: key.spki });
    expect(verdict(tbs, profile, warm)).toContain("own name or key");
    Object.assign(warm, { spki });
    expect(verdict(tbs, profile, warm)).toBe("passed as intermediate-embedded");
  });
});
