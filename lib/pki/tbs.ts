import { concatBytes, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { algorithmIdentifier } from "./algorithms.ts";
import * as der from "./der-write.ts";
import { KEY_USAGE_BITS } from "./extension-values.ts";
import { encodeGeneralName, type SubjectAltName } from "./general-name.ts";
import type { IssuerInfo } from "./issuer.ts";
import { buildName, parseName, type NameParts } from "./name.ts";
import { OID } from "./oids.ts";
import type { Profile } from "./profile-schema.ts";
import { subjectKeyIdentifier } from "./spki.ts";
import { encodeTime } from "./time.ts";

/** DER of a TBSCertificate: the intent that is stored before the HSM is asked. */
export type Tbs = Uint8Array;

/** What one certificate has of its own; everything else is the profile's and the issuer's. */
export interface TbsParams {
  /** The signing CA; for a self-signed profile selfIssuer() of the same subject and key */
  readonly issuer: IssuerInfo;
  /** Magnitude, 1 to 20 octets; see newSerial */
  readonly serial: Uint8Array;
  /** Whole seconds; see validityFor */
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly subject: NameParts;
  /** DER SubjectPublicKeyInfo, already read by readSpki */
  readonly spki: Uint8Array;
  readonly pathLen?: number | undefined;
  readonly san?: readonly SubjectAltName[] | undefined;
  /** Where the issuer's CRL is published (http) */
  readonly crlUrl?: string | undefined;
  /** Name constraints: permitted directoryName subtrees, each a DER Name */
  readonly permittedNames?: readonly Uint8Array[] | undefined;
}

/**
 * Builds a TBSCertificate. Pure: the same profile and parameters give the same bytes. It doesn't judge them: whether
 * they keep to the profile is lintTbs's to say, from the bytes alone.
 * @throws CountersignError `input-invalid` for values that have no encoding
 */
export function buildTbs(profile: Profile, params: TbsParams): Tbs {
  const template = templateOf(profile, params.issuer);
  if (params.serial.length === 0) throw new CountersignError("input-invalid", "a serial number has 1 to 20 octets");
  return der.sequence(
    VERSION_3,
    der.unsignedInteger(params.serial),
    template.algorithmAndIssuer,
    validity(template, params),
    buildName(params.subject),
    params.spki,
    der.explicit(3, der.sequence(...extensions(profile, template, params))),
  );
}

const VERSION_3 = der.explicit(0, der.integer(2));
const NOTHING = new Uint8Array(0);

/** What is the same in every certificate of one issuer and profile, encoded once. Held as long as both are. */
interface Template {
  readonly algorithmAndIssuer: Uint8Array;
  /** basicConstraints without a path length */
  readonly basicConstraints: Uint8Array;
  /** keyUsage, extKeyUsage and the subject key identifier up to its octets */
  readonly toSubjectKey: Uint8Array;
  readonly authorityKeyIdentifier: Uint8Array;
  readonly ocspNoCheck: Uint8Array;
  /** The last ones encoded: certificates of one batch share them */
  validity: { notBefore: number; notAfter: number; encoded: Uint8Array };
  distributionPoint: { url: string | undefined; encoded: Uint8Array };
}

const templates = new WeakMap<IssuerInfo, WeakMap<Profile, Template>>();

function templateOf(profile: Profile, issuer: IssuerInfo): Template {
  let byProfile = templates.get(issuer);
  if (byProfile === undefined) templates.set(issuer, (byProfile = new WeakMap()));
  let template = byProfile.get(profile);
  if (template === undefined) byProfile.set(profile, (template = makeTemplate(profile, issuer)));
  return template;
}

/** An empty key identifier of the length ours have: what comes before its octets is the same for all. */
const ANY_SKI = new Uint8Array(20);

function makeTemplate(profile: Profile, issuer: IssuerInfo): Template {
  const bits = profile.keyUsage.map((usage) => KEY_USAGE_BITS.indexOf(usage));
  const purposes = profile.extKeyUsage.map(der.oid);
  const subjectKey = extension(OID.subjectKeyIdentifier, false, der.octetString(ANY_SKI));
  return {
    algorithmAndIssuer: concatBytes(algorithmIdentifier(issuer.algorithm), issuer.name),
    basicConstraints: basicConstraints(profile, undefined),
    toSubjectKey: concatBytes(
      extension(OID.keyUsage, true, der.namedBitString(bits)),
      purposes.length === 0 ? NOTHING : extension(OID.extKeyUsage, false, der.sequence(...purposes)),
      subjectKey.subarray(0, subjectKey.length - ANY_SKI.length),
    ),
    authorityKeyIdentifier: extension(OID.authorityKeyIdentifier, false, der.sequence(der.implicit(0, issuer.ski))),
    ocspNoCheck: profile.ocspNoCheck === true ? extension(OID.ocspNoCheck, false, der.nullValue()) : NOTHING,
    validity: { notBefore: Number.NaN, notAfter: Number.NaN, encoded: NOTHING },
    distributionPoint: { url: undefined, encoded: NOTHING },
  };
}

function validity(template: Template, params: TbsParams): Uint8Array {
  const notBefore = params.notBefore.getTime();
  const notAfter = params.notAfter.getTime();
  const last = template.validity;
  if (last.notBefore === notBefore && last.notAfter === notAfter) return last.encoded;
  const encoded = der.sequence(encodeTime(params.notBefore), encodeTime(params.notAfter));
  template.validity = { notBefore, notAfter, encoded };
  return encoded;
}

function extensions(profile: Profile, template: Template, params: TbsParams): Uint8Array[] {
  const { pathLen, san, crlUrl, permittedNames } = params;
  return [
    pathLen === undefined ? template.basicConstraints : basicConstraints(profile, pathLen),
    template.toSubjectKey,
    subjectKeyIdentifier(params.spki),
    template.authorityKeyIdentifier,
    san === undefined || san.length === 0
      ? NOTHING
      : extension(OID.subjectAltName, false, der.sequence(...san.map(encodeGeneralName))),
    distributionPoint(template, crlUrl),
    permittedNames === undefined || permittedNames.length === 0
      ? NOTHING
      : extension(OID.nameConstraints, true, der.sequence(der.explicit(0, ...permittedNames.map(subtree)))),
    template.ocspNoCheck,
  ];
}

function basicConstraints(profile: Profile, pathLen: number | undefined): Uint8Array {
  const content = profile.basicConstraints.ca
    ? der.sequence(der.boolean(true), pathLen === undefined ? NOTHING : der.integer(pathLen))
    : der.sequence();
  return extension(OID.basicConstraints, true, content);
}

function distributionPoint(template: Template, url: string | undefined): Uint8Array {
  if (template.distributionPoint.url === url) return template.distributionPoint.encoded;
  const encoded = url === undefined ? NOTHING : extension(OID.cRLDistributionPoints, false, distributionPoints(url));
  template.distributionPoint = { url, encoded };
  return encoded;
}

function distributionPoints(url: string): Uint8Array {
  if (!/^http:\/\/[!-~]{1,240}$/.test(url))
    throw new CountersignError("input-invalid", "a CRL URL starts with http://");
  return der.sequence(der.sequence(der.explicit(0, der.explicit(0, der.implicit(6, utf8(url))))));
}

function subtree(name: Uint8Array): Uint8Array {
  return der.sequence(der.explicit(4, parseName(name).der));
}

function extension(type: string, critical: boolean, value: Uint8Array): Uint8Array {
  return der.sequence(der.oid(type), critical ? der.boolean(true) : NOTHING, der.octetString(value));
}
