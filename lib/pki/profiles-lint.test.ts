import { beforeAll, describe, expect, it } from "vitest";
import { issueCrl, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { certificatesOfEveryProfile, type ProfileCertificate } from "../../test/support/profile-certificates.ts";
import { pythonJudge } from "../../test/support/python.ts";
import { toBase64 } from "../domain/bytes.ts";
import { DerReader } from "./der.ts";
import { OID, OID_HUB_VERIFICATION } from "./oids.ts";
import { PROFILES, type ProfileName } from "./profiles.ts";

type Finding = [severity: string, code: string, message: string];

/** What pkilint may say above INFO, and why that stands. */
const EXCEPTIONS: readonly {
  profile: ProfileName;
  code: string;
  holds: (c: ProfileCertificate) => boolean;
  why: string;
}[] = [
  {
    profile: "hub-verification",
    code: "itu.invalid_asn1_syntax",
    holds: ({ certificate }) => purposesOf(certificate) === OID_HUB_VERIFICATION,
    why: "The purpose's OID lies under 2.25: its last arc is a UUID of 128 bits, and pkilint reads 32. It is good DER.",
  },
];

describe("pkilint", () => {
  let certificates: ProfileCertificate[];
  beforeAll(() => {
    certificates = certificatesOfEveryProfile();
  });

  it("finds nothing above INFO in any profile's certificates, by every key and under every CA key", () => {
    expect(new Set(certificates.map(({ profile }) => profile)).size).toBe(Object.keys(PROFILES).length);
    const answers = pythonJudge<object, Finding[]>(
      "lint.py",
      certificates.map(({ certificate }) => ({ kind: "certificate", der: toBase64(certificate.der) })),
    );
    const used = new Set<object>();
    const findings = certificates.flatMap((c, i) =>
      answers[i]!.flatMap(([severity, code, message]) => {
        if (severity === "INFO" || severity === "DEBUG") return [];
        const excepted = EXCEPTIONS.find((one) => one.profile === c.profile && one.code === code && one.holds(c));
        if (excepted) used.add(excepted);
        return excepted ? [] : [`${c.name}: ${severity} ${code} ${message}`];
      }),
    );
    expect(findings).toEqual([]);
    expect(used.size, "an exception that nothing needs any more").toBe(EXCEPTIONS.length);
    // It looked: the way we make subject key identifiers is worth an INFO to it
    expect(answers.flat().filter(([severity]) => severity === "INFO").length).toBeGreaterThan(100);
  });

  it("finds nothing above INFO in our CRLs", () => {
    const revoked = [
      { serial: "4142434445464748", revokedAt: new Date("2026-01-01T00:00:00Z"), reason: "keyCompromise" as const },
      { serial: "00ff", revokedAt: new Date("2026-02-01T00:00:00Z"), invalidityDate: new Date("2025-12-01T00:00:00Z") },
    ];
    const crls = PROFILES.root.keyAlgorithms.flatMap((algorithm) => {
      const ca = throwawayRoot({ commonName: "CA" }, throwawayKey(algorithm));
      return [issueCrl(ca), issueCrl(ca, { number: 2n ** 100n, revoked })];
    });
    const answers = pythonJudge<object, Finding[]>(
      "lint.py",
      crls.map((der) => ({ kind: "crl", der: toBase64(der) })),
    );
    expect(answers.flat().filter(([severity]) => severity !== "INFO" && severity !== "DEBUG")).toEqual([]);
  });

  it("does find what is wrong", () => {
    const der = certificates.find(({ profile }) => profile === "root")!.certificate.der;
    const spoiled = der.slice();
    // cRLSign and keyCertSign gone from the root's key usage
    const at = Buffer.from(der).indexOf(Buffer.from("0603551d0f0101ff040403020106", "hex"));
    expect(at).toBeGreaterThan(0);
    spoiled[at + 13] = 0x80;
    spoiled[at + 12] = 0x07;
    const [found] = pythonJudge<object, Finding[]>("lint.py", [{ kind: "certificate", der: toBase64(spoiled) }]);
    expect(found!.map(([severity]) => severity)).toContain("ERROR");
  });
});

function purposesOf(certificate: ProfileCertificate["certificate"]): string {
  const extension = certificate.extensions.find(({ oid }) => oid === OID.extKeyUsage)!;
  const list = new DerReader(extension.value).enter();
  const purpose = list.oid();
  list.end();
  return purpose;
}
