import { generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { issuerFromCertificate, selfIssuer, validityFor } from "../lib/pki/issuer.ts";
import { assembleCertificate, lintTbs } from "../lib/pki/lint.ts";
import { profileNamed, type ProfileName } from "../lib/pki/profiles.ts";
import { buildTbs, type TbsParams } from "../lib/pki/tbs.ts";

/** A root of the benchmark's own, its key in memory. */
export interface BenchRoot {
  /** DER */
  readonly certificate: Uint8Array;
  readonly key: KeyObject;
  readonly issue: (profile: ProfileName, leaf: Pick<TbsParams, "subject" | "spki" | "pathLen" | "san">) => Uint8Array;
}

export function benchRoot(): BenchRoot {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const spki = new Uint8Array(publicKey.export({ type: "spki", format: "der" }));
  const subject = { organization: "Bench", commonName: "Bench Root" };
  const profile = profileNamed("root");
  const validity = validityFor(profile, new Date(), undefined);
  const self = selfIssuer({ name: subject, spki, ...validity });
  const tbs = buildTbs(profile, { serial: randomBytes(16), ...validity, issuer: self, subject, spki });
  const linted = lintTbs(tbs, profile, self);
  const certificate = assembleCertificate(linted, sign("sha256", linted.bytes, privateKey));
  const issuer = issuerFromCertificate(parseCertificate(certificate));
  return {
    certificate,
    key: privateKey,
    issue(name, leaf) {
      const asked = profileNamed(name);
      const serial = randomBytes(16);
      const bytes = buildTbs(asked, { serial, ...validityFor(asked, new Date(), issuer), issuer, ...leaf });
      const checked = lintTbs(bytes, asked, issuer);
      return assembleCertificate(checked, sign("sha256", checked.bytes, privateKey));
    },
  };
}
