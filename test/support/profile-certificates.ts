import type { KeyAlgorithm } from "../../lib/domain/signing.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import { issuerFromCertificate, selfIssuer, validityFor } from "../../lib/pki/issuer.ts";
import { buildName, type NameParts } from "../../lib/pki/name.ts";
import { PROFILES, profileNamed, type Profile, type ProfileName } from "../../lib/pki/profiles.ts";
import type { TbsParams } from "../../lib/pki/tbs.ts";
import { issueUnder, throwawayKey, throwawayRoot, type ThrowawayCa, type ThrowawayKey } from "./issuing.ts";

/** Every kind of certificate that we issue, signed by throwaway keys: material for other people's linters. */

export interface ProfileCertificate {
  readonly profile: ProfileName;
  /** `ldevid ed25519 under rsa-3072, full` */
  readonly name: string;
  readonly certificate: Certificate;
}

const KEYS: readonly KeyAlgorithm[] = ["ec-p256", "ec-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"];

/** Each profile with each key it allows, and under each kind of CA key; with all that may be left out, and without. */
export function certificatesOfEveryProfile(): ProfileCertificate[] {
  const keys = new Map(KEYS.map((algorithm) => [algorithm, throwawayKey(algorithm)]));
  const caKeys = new Map(PROFILES.root.keyAlgorithms.map((algorithm) => [algorithm, throwawayKey(algorithm)]));
  const made: ProfileCertificate[] = [];
  for (const [caAlgorithm, caKey] of caKeys) {
    const ca = throwawayRoot({ country: "DE", organization: "Company X", commonName: "Company X Root" }, caKey, {
      days: "no-expiry",
    });
    for (const [profile, rules] of Object.entries(PROFILES) as [ProfileName, Profile][]) {
      for (const algorithm of rules.keyAlgorithms) {
        // A self-signed certificate has one key
        if (rules.selfSigned && algorithm !== caAlgorithm) continue;
        if (!rules.selfSigned && algorithm !== "ec-p256" && caAlgorithm !== "ec-p256") continue;
        for (const full of [true, false]) {
          const name = `${profile} ${algorithm} under ${caAlgorithm}, ${full ? "full" : "bare"}`;
          const key = rules.selfSigned ? caKey : keys.get(algorithm)!;
          made.push({ profile, name, certificate: one(ca, rules, key, full) });
        }
      }
    }
  }
  return made;
}

function one(ca: ThrowawayCa, profile: Profile, key: ThrowawayKey, full: boolean): Certificate {
  const wanted = (presence: string): boolean => presence === "required" || (full && presence === "optional");
  const { subject: rules, validity: limits } = profile;
  const subject: NameParts = {
    country: wanted(rules.country) ? "DE" : undefined,
    organization: wanted(rules.organization) ? "Factory Y GmbH & Co. KG" : undefined,
    organizationalUnit: wanted(rules.organizationalUnit) ? (rules.role ?? "Line 7") : undefined,
    commonName: rules.commonNameForm === "device-id" ? "dev-00001" : profile.name === "server" ? "gw.example.com" : "Y",
    serialNumber: wanted(rules.serialNumber) ? "SN 4711" : undefined,
  };
  const days = limits.noExpiry && full ? "no-expiry" : limits.defaultDays;
  const authority = issuerFromCertificate(ca.certificate);
  const validity = validityFor(profile, new Date(), profile.selfSigned ? undefined : authority, days);
  const { spki } = key;
  const issuer = profile.selfSigned ? selfIssuer({ name: subject, spki, ...validity }) : authority;
  const { basicConstraints: constraints } = profile;
  const params: Omit<TbsParams, "issuer" | "serial"> = {
    ...validity,
    subject,
    spki,
    pathLen: constraints.ca && wanted(constraints.pathLen) ? Math.min(1, constraints.maxPathLen) : undefined,
    san: wanted(profile.subjectAltName.presence) ? alternativeNames(profile) : undefined,
    crlUrl: wanted(profile.crlDistributionPoint) ? "http://crl.example.com/y.crl" : undefined,
    permittedNames: wanted(profile.nameConstraints) ? [buildName({ organization: "Factory Y" })] : undefined,
  };
  return issueUnder(profileNamed(profile.name), issuer, profile.selfSigned ? key : ca.key, params);
}

function alternativeNames({ subjectAltName }: Profile): TbsParams["san"] {
  if (subjectAltName.kinds.includes("hardware-module")) {
    const value = { hwType: "1.3.6.1.4.1.99999.1", hwSerialNum: Uint8Array.of(0x12, 0x34, 0x56) };
    return [{ kind: "hardware-module", value }];
  }
  return [
    { kind: "dns", value: "gw.example.com" },
    { kind: "ip", value: Uint8Array.of(127, 0, 0, 1) },
  ];
}
