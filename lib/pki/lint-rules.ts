import { equalBytes } from "../domain/bytes.ts";
import { schemeOf } from "./algorithms.ts";
import { DEVICE_ID } from "../domain/ids.ts";
import { TAG } from "./der.ts";
import type { TbsCertificate } from "./certificate.ts";
import type { IssuerInfo } from "./issuer.ts";
import { OID } from "./oids.ts";
import type { Profile } from "./profile-schema.ts";
import { readSpki, subjectKeyIdentifier } from "./spki.ts";
import { NO_EXPIRY } from "./time.ts";

export interface Violation {
  /** Stable name of the rule */
  readonly rule: string;
  readonly message: string;
}

export interface LintCase {
  readonly tbs: TbsCertificate;
  readonly profile: Profile;
  readonly issuer: IssuerInfo;
}

/** Each rule looks at the re-read bytes only, never at what the builder was asked for. */
type Rule = (c: LintCase) => string | false | undefined;

const DAY = 86_400_000;
const SECOND = 1000;

const RULES: Record<string, Rule> = {
  serial: ({ tbs }) => tbs.serial.length < 16 && "the serial number has fewer than 8 octets",

  "signature-algorithm": ({ tbs, issuer }) =>
    tbs.signatureScheme !== schemeOf(issuer.algorithm) && "the signature algorithm isn't the issuer key's",

  "issuer-name": ({ tbs, issuer }) =>
    (tbs.issuer.rdns.length === 0 || !equalBytes(tbs.issuer.der, issuer.name)) &&
    "the issuer's name isn't the subject of the issuer's certificate",

  "self-signed": ({ tbs, profile, issuer }) => {
    const sameKey = equalBytes(tbs.spki, issuer.spki);
    const same = equalBytes(tbs.subject.der, tbs.issuer.der);
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

  subject: subjectRule,

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

  "key-identifiers": ({ tbs, issuer }) => {
    const { ski, aki } = tbs;
    if (ski === undefined || !equalBytes(ski, subjectKeyIdentifier(tbs.spki))) {
      return "the subject key identifier isn't the key's (RFC 7093 method 1)";
    }
    const keyOnly = aki?.certIssuer === undefined && aki?.certSerial === undefined;
    const matches = aki?.keyIdentifier !== undefined && equalBytes(aki.keyIdentifier, issuer.ski);
    return !(keyOnly && matches) && "the authority key identifier isn't the issuer's";
  },

  "alternative-names": ({ tbs, profile }) => {
    for (const name of tbs.san ?? []) {
      if (name.kind === "directory" || name.kind === "other") return "a kind of alternative name the profile forbids";
      if (!profile.subjectAltName.kinds.includes(name.kind)) return `the profile allows no ${name.kind} names`;
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
  return Object.entries(RULES).flatMap(([rule, check]) => {
    const message = check(c);
    return typeof message === "string" ? [{ rule, message }] : [];
  });
}

const DNS_NAME =
  /^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$/;

function subjectRule({ tbs, profile }: LintCase): string | undefined {
  const rules = profile.subject;
  const order = [
    { type: OID.countryName, presence: rules.country, tag: TAG.printableString },
    { type: OID.organizationName, presence: rules.organization, tag: TAG.utf8String },
    { type: OID.organizationalUnitName, presence: rules.organizationalUnit, tag: TAG.utf8String },
    { type: OID.commonName, presence: rules.commonName, tag: TAG.utf8String },
    { type: OID.serialNumber, presence: rules.serialNumber, tag: TAG.printableString },
  ];
  let position = 0;
  for (const rdn of tbs.subject.rdns) {
    const [attribute] = rdn;
    if (attribute === undefined || rdn.length !== 1) return "each RDN of the subject has one attribute";
    while (position < order.length && order[position]!.type !== attribute.type) {
      if (order[position++]!.presence === "required") return `the subject lacks a required attribute`;
    }
    const slot = order[position++];
    if (slot === undefined || slot.presence === "forbidden") return `subject attribute ${attribute.type} isn't allowed`;
    if (slot.tag !== attribute.tag) return `subject attribute ${attribute.type} has the wrong string type`;
    const length = [...(attribute.text ?? "")].length;
    if (length < 1 || length > 64) return `subject attribute ${attribute.type} must have 1 to 64 characters`;
  }
  if (order.slice(position).some((slot) => slot.presence === "required"))
    return "the subject lacks a required attribute";
  if (rules.commonNameForm === "device-id" && !DEVICE_ID.test(tbs.subject.cn ?? "")) {
    return "the common name isn't a device ID";
  }
  return undefined;
}

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
  ];
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && new Set(a).size === a.length && a.every((item) => b.includes(item));
}
