import { equalBytes } from "../../lib/domain/bytes.ts";
import type { SignatureAlgorithm } from "../../lib/domain/signing.ts";
import { algorithmIdentifier } from "../../lib/pki/algorithms.ts";
import * as der from "../../lib/pki/der-write.ts";
import { KEY_USAGE_BITS, type KeyUsage } from "../../lib/pki/extension-values.ts";
import { encodeGeneralName, type SubjectAltName } from "../../lib/pki/general-name.ts";
import { OID } from "../../lib/pki/oids.ts";
import { subjectKeyIdentifier } from "../../lib/pki/spki.ts";
import { encodeTime } from "../../lib/pki/time.ts";
import type { ThrowawayKey } from "./issuing.ts";

/** For tests of refusals: a certificate as one describes it, right or wrong. No linter, no profile. */
export interface RawCertificate {
  version: number;
  serial: Uint8Array;
  /** DER Name */
  issuer: Uint8Array;
  subject: Uint8Array;
  notBefore: Uint8Array;
  notAfter: Uint8Array;
  spki: Uint8Array;
  extensions: RawExtension[];
  signer: ThrowawayKey;
  innerAlgorithm: Uint8Array;
  outerAlgorithm: Uint8Array;
  /** Changes the signature after it was made */
  spoilSignature: boolean;
}

export interface RawExtension {
  oid: string;
  critical: boolean;
  value: Uint8Array;
}

export function rawCertificate(raw: RawCertificate): Uint8Array {
  const tbs = der.sequence(
    ...(raw.version === 1 ? [] : [der.explicit(0, der.integer(raw.version - 1))]),
    der.encodeElement(0x02, raw.serial),
    raw.innerAlgorithm,
    raw.issuer,
    der.sequence(raw.notBefore, raw.notAfter),
    raw.subject,
    raw.spki,
    ...(raw.extensions.length === 0 ? [] : [der.explicit(3, der.sequence(...raw.extensions.map(encodeExtension)))]),
  );
  const signature = raw.signer.sign(tbs);
  if (raw.spoilSignature) signature[signature.length - 5]! ^= 1;
  return der.sequence(tbs, raw.outerAlgorithm, der.bitString(signature));
}

function encodeExtension({ oid, critical, value }: RawExtension): Uint8Array {
  return der.sequence(der.oid(oid), ...(critical ? [der.boolean(true)] : []), der.octetString(value));
}

export const rawExtension = {
  basicConstraints: (ca: boolean, pathLen?: number, critical = true): RawExtension => ({
    oid: OID.basicConstraints,
    critical,
    value: der.sequence(...(ca ? [der.boolean(true)] : []), ...(pathLen === undefined ? [] : [der.integer(pathLen)])),
  }),
  keyUsage: (usages: readonly KeyUsage[], critical = true): RawExtension => ({
    oid: OID.keyUsage,
    critical,
    value: der.namedBitString(usages.map((usage) => KEY_USAGE_BITS.indexOf(usage))),
  }),
  extKeyUsage: (purposes: readonly string[], critical = false): RawExtension => ({
    oid: OID.extKeyUsage,
    critical,
    value: der.sequence(...purposes.map(der.oid)),
  }),
  ski: (spki: Uint8Array, critical = false): RawExtension => ({
    oid: OID.subjectKeyIdentifier,
    critical,
    value: der.octetString(subjectKeyIdentifier(spki)),
  }),
  aki: (issuerSpki: Uint8Array, critical = false): RawExtension => ({
    oid: OID.authorityKeyIdentifier,
    critical,
    value: der.sequence(der.implicit(0, subjectKeyIdentifier(issuerSpki))),
  }),
  san: (names: readonly SubjectAltName[], critical = false): RawExtension => ({
    oid: OID.subjectAltName,
    critical,
    value: der.sequence(...names.map(encodeGeneralName)),
  }),
  /** `bases`: GeneralNames, already encoded */
  nameConstraints: (
    permitted: readonly Uint8Array[],
    excluded: readonly Uint8Array[],
    critical = true,
  ): RawExtension => ({
    oid: OID.nameConstraints,
    critical,
    value: der.sequence(
      ...(permitted.length === 0 ? [] : [der.explicit(0, ...permitted.map((base) => der.sequence(base)))]),
      ...(excluded.length === 0 ? [] : [der.explicit(1, ...excluded.map((base) => der.sequence(base)))]),
    ),
  }),
  any: (oid: string, critical: boolean, value = der.nullValue()): RawExtension => ({ oid, critical, value }),
};

export interface RawDefaults {
  readonly subject: Uint8Array;
  readonly key: ThrowawayKey;
  readonly issuer: { readonly subject: Uint8Array; readonly key: ThrowawayKey };
  readonly extensions: RawExtension[];
  readonly serial: number;
  readonly at: Date;
}

/** A good v3 certificate around `at`; change its fields to spoil it. */
export function rawDefaults({ subject, key, issuer, extensions, serial, at }: RawDefaults): RawCertificate {
  const selfSigned = equalBytes(issuer.key.spki, key.spki);
  const algorithm: SignatureAlgorithm = issuer.key.algorithm;
  const day = 86_400_000;
  return {
    version: 3,
    serial: Uint8Array.of(0x41, serial >> 8, serial & 0xff, 1, 2, 3, 4, 5),
    issuer: issuer.subject,
    subject,
    notBefore: encodeTime(new Date(at.getTime() - 30 * day)),
    notAfter: encodeTime(new Date(at.getTime() + 365 * day)),
    spki: key.spki,
    extensions: [...extensions, rawExtension.ski(key.spki), ...(selfSigned ? [] : [rawExtension.aki(issuer.key.spki)])],
    signer: issuer.key,
    innerAlgorithm: algorithmIdentifier(algorithm),
    outerAlgorithm: algorithmIdentifier(algorithm),
    spoilSignature: false,
  };
}
