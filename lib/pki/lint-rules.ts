import { equalBytes } from "../domain/bytes.ts";
import { schemeOf } from "./algorithms.ts";
import type { TbsCertificate } from "./certificate.ts";
import type { IssuerInfo } from "./issuer.ts";
import { subjectFault } from "./lint-subject.ts";
import { OID } from "./oids.ts";
import type { Profile } from "./profile-schema.ts";
import { readSpki, subjectKeyIdentifier } from "./spki.ts";
import { NO_EXPIRY } from "./time.ts";

export interface Violation {
  /** Stable name of the rule */
  readonly rule: string;
  readonly message: string;
}

/** What each certificate has of its own; all else is its issuer's and its profile's. */
export type OwnParts = Pick<TbsCertificate, "serial" | "notBefore" | "notAfter" | "subject" | "spki" | "ski">;

interface OwnCase {
  readonly tbs: OwnParts;
  readonly profile: Profile;
  readonly issuer: IssuerInfo;
}

export interface LintCase extends OwnCase {
  readonly tbs: TbsCertificate;
}

/** Each rule looks at the re-read bytes only, never at what the builder was asked for. */
type Rule<Case> = (c: Case) => string | false | undefined;

const DAY = 86_400_000;
const SECOND = 1000;

const OWN_RULES: Record<string, Rule<OwnCase>> = {
  serial: ({ tbs }) => tbs.serial.length < 16 && "the serial number has fewer than 8 octets",

  "self-signed": ({ tbs, profile, issuer }) => {
    const sameKey = equalBytes(tbs.spki, issuer.spki);
    const same = equalBytes(tbs.subject.der, issuer.name);
    if (profile.selfSigned) return !(sameKey && same) && "issuer and subject must be one name and one key";
    return (sameKey || same) && "the subject has the issuer's own name or key";
  },

  validity: ({ tbs, profile, issuer }) => {
    const { notBefore, notAfter } = tbs;
    if (notBefore >= notAfter) return "notAfter isn't after notBefore";
    if (notBefore < issuer.notBefore || notAfter > issuer.notAfter) return "the validity isn't nested in the issuer's";
    if (notAfter.getTime() === NO_EXPIRY.getTime()) {
      return !profile.validity.noExpiry && "the profile allows no endless validity";
    }
    const days = (notAfter.getTime() - notBefore.getTime() + SECOND) / DAY;
    return days > profile.validity.maxDays && `the validity is above ${profile.validity.maxDays} days`;
  },

  key: ({ tbs, profile }) => {
    const { algorithm } = readSpki(tbs.spki);
    return !profile.keyAlgorithms.includes(algorithm) && `the profile allows no ${algorithm} keys`;
  },

  subject: ({ tbs, profile }) => subjectFault(tbs.subject, profile.subject),

  "subject-key-identifier": ({ tbs: { ski, spki } }) =>
    (ski === undefined || !equalBytes(ski, subjectKeyIdentifier(spki))) &&
    "the subject key identifier isn't the key's (RFC 7093 method 1)",
};

const SHARED_RULES: Record<string, Rule<LintCase>> = {
  "signature-algorithm": ({ tbs, issuer }) =>
    tbs.signatureScheme !== schemeOf(issuer.algorithm) && "the signature algorithm isn't the issuer key's",

  "issuer-name": ({ tbs, issuer }) =>
    (tbs.issuer.rdns.length === 0 || !equalBytes(tbs.issuer.der, issuer.name)) &&
    "the issuer's name isn't the subject of the issuer's certificate",

  "extension-set": ({ tbs, profile }) => {
    const expected = expectedExtensions(profile);
    let position = 0;
    for (const { oid, critical } of tbs.extensions) {
      while (position < expected.length && expected[position]!.oid !== oid) {
        if (expected[position++]!.presence === "required") return `a required extension is missing before ${oid}`;
      }
      const slot = expected[position++];
      if (slot === undefined || slot.presence === "forbidden") return `extension ${oid} isn't allowed, or out of order`;
      if (slot.critical !== critical) return `extension ${oid} has the wrong criticality`;
    }
    return expected.slice(position).some((slot) => slot.presence === "required") && "a required extension is missing";
  },

  "basic-constraints": ({ tbs, profile, issuer }) => {
    const want = profile.basicConstraints;
    const { ca, pathLen } = tbs.basicConstraints ?? { ca: undefined, pathLen: undefined };
    if (ca !== want.ca) return `cA must be ${want.ca}`;
    if (!want.ca) return pathLen !== undefined && "only a CA has a path length";
    if (pathLen === undefined && want.pathLen === "required") return "the path length is missing";
    if (pathLen !== undefined && (want.pathLen === "forbidden" || pathLen > want.maxPathLen)) {
      return `the path length may be ${want.maxPathLen} at most`;
    }
    if (profile.selfSigned || issuer.pathLen === undefined) return undefined;
    return (pathLen === undefined || pathLen >= issuer.pathLen) && "the path length isn't below the issuer's";
  },

  "key-usage": ({ tbs, profile }) =>
    !sameSet(tbs.keyUsage ?? [], profile.keyUsage) && "the key usage isn't the profile's",

  "extended-key-usage": ({ tbs, profile }) =>
    !sameSet(tbs.eku ?? [], profile.extKeyUsage) && "the extended key usage isn't the profile's",

  "authority-key-identifier": ({ tbs: { aki }, issuer }) => {
    const keyOnly = aki?.certIssuer === undefined && aki?.certSerial === undefined;
    const matches = aki?.keyIdentifier !== undefined && equalBytes(aki.keyIdentifier, issuer.ski);
    return !(keyOnly && matches) && "the authority key identifier isn't the issuer's";
  },

  "alternative-names": ({ tbs, profile }) => {
    for (const name of tbs.san ?? []) {
      if (name.kind === "directory" || name.kind === "other") return "a kind of alternative name the profile forbids";
      if (!profile.subjectAltName.kinds.includes(name.kind)) return `the profile allows no ${name.kind} names`;
      if (name.kind === "hardware-module" && tbs.san!.length > 1) return "a hardware module's name stands alone";
      if (name.kind === "dns" && !DNS_NAME.test(name.value)) return "a DNS name isn't one";
    }
    return undefined;
  },

  "crl-distribution-point": ({ tbs }) => {
    const urls = tbs.crlUrls;
    return urls !== undefined && (urls.length !== 1 || !urls[0]!.startsWith("http://")) && "one http URL belongs there";
  },

  "name-constraints": ({ tbs }) => {
    const constraints = tbs.nameConstraints;
    if (constraints === undefined) return undefined;
    const onlyNames = constraints.permitted.every((base) => base.kind === "directory" && base.value.rdns.length > 0);
    return !(onlyNames && constraints.excluded.length === 0) && "only permitted, non-empty directoryName subtrees";
  },
};

/** Every rule the certificate breaks; empty when it keeps to its profile. */
export function violations(c: LintCase): Violation[] {
  return [...broken(OWN_RULES, c), ...broken(SHARED_RULES, c)];
}

/** Of the rules about what is the certificate's own, those it breaks. */
export function ownViolations(c: OwnCase): Violation[] {
  return broken(OWN_RULES, c);
}

function broken<Case>(rules: Readonly<Record<string, Rule<Case>>>, c: Case): Violation[] {
  const found: Violation[] = [];
  for (const rule in rules) {
    const message = rules[rule]!(c);
    if (typeof message === "string") found.push({ rule, message });
  }
  return found;
}

const DNS_NAME =
  /^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$/;

function expectedExtensions(profile: Profile): { oid: string; critical: boolean; presence: string }[] {
  return [
    { oid: OID.basicConstraints, critical: true, presence: "required" },
    { oid: OID.keyUsage, critical: true, presence: "required" },
    { oid: OID.extKeyUsage, critical: false, presence: profile.extKeyUsage.length > 0 ? "required" : "forbidden" },
    { oid: OID.subjectKeyIdentifier, critical: false, presence: "required" },
    { oid: OID.authorityKeyIdentifier, critical: false, presence: "required" },
    { oid: OID.subjectAltName, critical: false, presence: profile.subjectAltName.presence },
    { oid: OID.cRLDistributionPoints, critical: false, presence: profile.crlDistributionPoint },
    { oid: OID.nameConstraints, critical: true, presence: profile.nameConstraints },
    { oid: OID.ocspNoCheck, critical: false, presence: profile.ocspNoCheck === true ? "required" : "forbidden" },
  ];
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && new Set(a).size === a.length && a.every((item) => b.includes(item));
}
