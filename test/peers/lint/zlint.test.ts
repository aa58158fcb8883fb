import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { parseProfile } from "../../../lib/pki/profile-schema.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { issuerFromCertificate, validityFor } from "../../../lib/pki/issuer.ts";
import { PROFILES, type ProfileName } from "../../../lib/pki/profiles.ts";
import { tempDir, tool } from "../../support/index.ts";
import { issueCrl, issueUnder, throwawayKey, throwawayRoot } from "../../support/issuing.ts";
import { certificatesOfEveryProfile } from "../../support/profile-certificates.ts";

/** Our profiles, read by zlint: RFC 5280 for all; every source it has for those with an extended key usage. */

const RFC_SOURCES = "RFC3279,RFC5280,RFC5480,RFC5891,RFC6962,RFC8813";

interface Exception {
  readonly profiles: readonly ProfileName[];
  /** Lints not heeded, or the only sources asked */
  readonly lints?: readonly string[];
  readonly sources?: string;
  readonly why: string;
}

const EXCEPTIONS: readonly Exception[] = [
  {
    profiles: [
      "ldevid",
      "client",
      "operator",
      "station",
      "technician",
      "monitor",
      "ocsp-responder",
      "hub-verification",
    ],
    lints: ["w_ct_sct_policy_count_unsatisfied"],
    why: "Certificate Transparency is for the public Web. Ours is in its issuer's own ledger.",
  },
  {
    profiles: ["server"],
    sources: RFC_SOURCES,
    why:
      "The baseline requirements of browsers and the CA/Browser Forum are for public CAs. A site's servers are under its " +
      "own infrastructure CA, may carry loopback addresses, and have no certificate policies, AIA or CT log.",
  },
];

type Results = Record<string, { result: string; details?: string }>;
const FINDINGS = ["notice", "info", "warn", "error", "fatal"];

let zlint: string;
let folder: string;
beforeAll(() => {
  folder = tempDir("zlint");
  zlint = join(folder, "zlint");
  execFileSync(tool("go"), ["build", "-mod=readonly", "-o", zlint, "github.com/zmap/zlint/v3/cmd/zlint"], {
    cwd: import.meta.dirname,
    stdio: "inherit",
  });
}, 600_000);

/** Its findings in each of the DERs, in order. */
function judge(label: string, ders: readonly Uint8Array[], sources?: string): string[][] {
  const files = ders.map((der, i) => {
    const file = join(folder, `${i}.pem`);
    writeFileSync(file, pemEncode(label, der));
    return file;
  });
  const only = sources === undefined ? [] : ["-includeSources", sources];
  const out = execFileSync(zlint, [...only, ...files], { encoding: "utf8", maxBuffer: 1 << 28 });
  const lines = out.trimEnd().split("\n");
  expect(lines).toHaveLength(ders.length);
  return lines.map((line) => {
    const results = Object.entries(JSON.parse(line) as Results);
    // All lints "NA" would be a run that looked at nothing
    expect(results.filter(([, { result }]) => result === "pass").length).toBeGreaterThan(label === "X509 CRL" ? 2 : 20);
    return results
      .filter(([, { result }]) => FINDINGS.includes(result))
      .map(([lint, { result, details }]) => `${result} ${lint} ${details ?? ""}`);
  });
}

/** A kind of OID that zlint, with Go's encoding/asn1, can't read: arcs of more than 31 bits. */
const PLAIN_PURPOSE = "1.3.6.1.4.1.32473.1";

function everyProfile() {
  const all = certificatesOfEveryProfile().filter(({ profile }) => profile !== "hub-verification");
  // Stands in for hub-verification, whose purpose is a 128-bit UUID under 2.25: the same but for that OID
  const twin = parseProfile({ ...PROFILES["hub-verification"], extKeyUsage: [PLAIN_PURPOSE] });
  const ca = throwawayRoot({ commonName: "Root" });
  const issuer = issuerFromCertificate(ca.certificate);
  for (const algorithm of twin.keyAlgorithms) {
    const params = { ...validityFor(twin, new Date(), issuer), subject: { commonName: "4F".repeat(16) } };
    const certificate = issueUnder(twin, issuer, ca.key, { ...params, spki: throwawayKey(algorithm).spki });
    all.push({ profile: "hub-verification", name: `hub-verification ${algorithm}, plain purpose`, certificate });
  }
  return all;
}

describe("zlint v3.7.1", () => {
  it("finds nothing against RFC 5280 in any profile, nor beyond the exceptions in any of its sources", () => {
    const all = everyProfile();
    const names = (findings: readonly string[][], of: typeof all): string[] =>
      of.flatMap(({ name }, i) => findings[i]!.map((finding) => `${name}: ${finding}`));
    expect(new Set(all.map(({ profile }) => profile)).size).toBe(Object.keys(PROFILES).length);
    const ders = (of: typeof all): Uint8Array[] => of.map(({ certificate }) => certificate.der);
    expect(names(judge("CERTIFICATE", ders(all), "RFC5280"), all)).toEqual([]);

    const withPurpose = all.filter(({ profile }) => PROFILES[profile].extKeyUsage.length > 0);
    const unused = new Set(EXCEPTIONS);
    const judged: string[] = [];
    for (const profile of new Set(withPurpose.map((one) => one.profile))) {
      const of = withPurpose.filter((one) => one.profile === profile);
      const exceptions = EXCEPTIONS.filter((one) => one.profiles.includes(profile));
      const sources = exceptions.find((one) => one.sources !== undefined);
      if (sources) unused.delete(sources);
      const findings = names(judge("CERTIFICATE", ders(of), sources?.sources), of).filter((finding) => {
        const heeded = exceptions.find((one) => one.lints?.some((lint) => finding.includes(` ${lint} `)));
        if (heeded) unused.delete(heeded);
        return !heeded;
      });
      expect(findings).toEqual([]);
      judged.push(`${profile} (${of.length})`);
    }
    expect([...unused]).toEqual([]);
    console.log(
      `zlint: ${all.length} certificates by RFC 5280; by every source but the exceptions: ${judged.join(", ")}`,
    );
  });

  it("finds nothing in our CRLs", () => {
    const ca = throwawayRoot({ commonName: "CA" });
    const at = new Date("2026-01-01T00:00:00Z");
    const revoked = [{ serial: "4142434445464748", revokedAt: at, reason: "keyCompromise" as const }];
    const crls = [issueCrl(ca), issueCrl(ca, { number: 7n, revoked })];
    expect(judge("X509 CRL", crls, "RFC5280").flat()).toEqual([]);
  });

  it("does find what is wrong", () => {
    const ca = throwawayRoot({ commonName: "CA" });
    const profile = parseProfile({ ...PROFILES.ldevid, keyUsage: ["keyEncipherment"] });
    const issuer = issuerFromCertificate(ca.certificate);
    const params = { ...validityFor(profile, new Date(), issuer), subject: { commonName: "dev-1" } };
    const wrong = issueUnder(profile, issuer, ca.key, { ...params, spki: throwawayKey().spki });
    expect(judge("CERTIFICATE", [wrong.der]).flat().join()).toContain("key_usage");
  });
});
