import { toHex } from "../domain/bytes.ts";
import { DerReader, derError, TAG } from "./der.ts";
import { readDistributionPoints } from "./distribution-points.ts";
import type { Extension } from "./extensions.ts";
import { MAX_NAMES, readGeneralName, readGeneralNames, type GeneralName } from "./general-name.ts";
import { OID } from "./oids.ts";

/** KeyUsage bits by number (RFC 5280 section 4.2.1.3). */
export const KEY_USAGE_BITS = [
  "digitalSignature",
  "nonRepudiation",
  "keyEncipherment",
  "dataEncipherment",
  "keyAgreement",
  "keyCertSign",
  "cRLSign",
  "encipherOnly",
  "decipherOnly",
] as const;
export type KeyUsage = (typeof KEY_USAGE_BITS)[number];

export interface BasicConstraints {
  readonly ca: boolean;
  readonly pathLen: number | undefined;
}

export interface AuthorityKeyIdentifier {
  readonly keyIdentifier: Uint8Array | undefined;
  readonly certIssuer: readonly GeneralName[] | undefined;
  /** Lower-case hex, as in Certificate.serial */
  readonly certSerial: string | undefined;
}

export interface NameConstraints {
  readonly permitted: readonly GeneralName[];
  readonly excluded: readonly GeneralName[];
}

/** The decoded values of the extensions we process; undefined where absent. */
export interface ExtensionValues {
  readonly basicConstraints: BasicConstraints | undefined;
  readonly keyUsage: readonly KeyUsage[] | undefined;
  /** Key purpose OIDs */
  readonly eku: readonly string[] | undefined;
  readonly ski: Uint8Array | undefined;
  readonly aki: AuthorityKeyIdentifier | undefined;
  readonly san: readonly GeneralName[] | undefined;
  readonly nameConstraints: NameConstraints | undefined;
  /** URIs of the distribution points' full names */
  readonly crlUrls: readonly string[] | undefined;
}

/** @throws CountersignError `der-invalid` where an extension's value isn't what its OID says */
export function readExtensionValues(extensions: readonly Extension[]): ExtensionValues {
  const value = <T>(oid: string, read: (reader: DerReader) => T): T | undefined => {
    const extension = extensions.find((candidate) => candidate.oid === oid);
    if (extension === undefined) return undefined;
    const reader = new DerReader(extension.value, extension.offset);
    const result = read(reader);
    reader.end();
    return result;
  };
  value(OID.authorityInfoAccess, checkAccessDescriptions);
  value(OID.subjectInfoAccess, checkAccessDescriptions);
  value(OID.freshestCRL, readDistributionPoints);
  value(OID.issuerAltName, (reader) => readGeneralNames(reader.enter()));
  return {
    basicConstraints: value(OID.basicConstraints, readBasicConstraints),
    keyUsage: value(OID.keyUsage, readKeyUsage),
    eku: value(OID.extKeyUsage, readOids),
    ski: value(OID.subjectKeyIdentifier, readKeyIdentifier),
    aki: value(OID.authorityKeyIdentifier, readAuthorityKeyIdentifier),
    san: value(OID.subjectAltName, (reader) => readGeneralNames(reader.enter())),
    nameConstraints: value(OID.nameConstraints, readNameConstraints),
    crlUrls: value(OID.cRLDistributionPoints, readDistributionPoints),
  };
}

function readBasicConstraints(outer: DerReader): BasicConstraints {
  const reader = outer.enter();
  const offset = reader.offset;
  const ca = reader.peek() === TAG.boolean ? reader.boolean() : undefined;
  if (ca === false) throw derError("DEFAULT FALSE encoded", offset);
  const pathLen = reader.peek() === TAG.integer ? reader.small(0xffff) : undefined;
  reader.end();
  return { ca: ca === true, pathLen };
}

function readKeyUsage(reader: DerReader): KeyUsage[] {
  const offset = reader.offset;
  return reader.namedBits().map((bit) => {
    const usage = KEY_USAGE_BITS[bit];
    if (usage === undefined) throw derError(`unknown key usage bit ${bit}`, offset);
    return usage;
  });
}

function readOids(outer: DerReader): string[] {
  const reader = outer.enter();
  const oids: string[] = [];
  if (reader.atEnd) throw reader.fail("empty list of key purposes");
  while (!reader.atEnd) {
    if (oids.length === MAX_NAMES) throw reader.fail("too many key purposes");
    oids.push(reader.oid());
  }
  return oids;
}

function readKeyIdentifier(reader: DerReader): Uint8Array {
  const { content, offset } = reader.read(TAG.octetString);
  if (content.length === 0 || content.length > 64) throw derError("key identifier of unusable length", offset);
  return content;
}

export function readAuthorityKeyIdentifier(outer: DerReader): AuthorityKeyIdentifier {
  const reader = outer.enter();
  const offset = reader.offset;
  const keyIdentifier = reader.readOptional(0x80)?.content;
  const names = reader.enterOptional(0xa1);
  const certIssuer = names === undefined ? undefined : readGeneralNames(names);
  const certSerial = reader.peek() === 0x82 ? toHex(reader.unsigned(0x82)) : undefined;
  reader.end();
  if (keyIdentifier?.length === 0) throw derError("empty key identifier", offset);
  if ((certIssuer === undefined) !== (certSerial === undefined)) {
    throw derError("issuer and serial number of an authority key identifier go together", offset);
  }
  return { keyIdentifier, certIssuer, certSerial };
}

function readNameConstraints(outer: DerReader): NameConstraints {
  const reader = outer.enter();
  const offset = reader.offset;
  const permitted = readSubtrees(reader.enterOptional(0xa0));
  const excluded = readSubtrees(reader.enterOptional(0xa1));
  reader.end();
  if (permitted === undefined && excluded === undefined) throw derError("empty name constraints", offset);
  return { permitted: permitted ?? [], excluded: excluded ?? [] };
}

/** RFC 5280 section 4.2.1.10: minimum is 0 (so absent in DER) and maximum absent; anything else is refused. */
function readSubtrees(reader: DerReader | undefined): GeneralName[] | undefined {
  if (reader === undefined) return undefined;
  const bases: GeneralName[] = [];
  if (reader.atEnd) throw reader.fail("empty list of subtrees");
  while (!reader.atEnd) {
    if (bases.length === MAX_NAMES) throw reader.fail(`more than ${MAX_NAMES} subtrees`);
    const subtree = reader.enter();
    bases.push(readGeneralName(subtree.read()));
    subtree.end();
  }
  return bases;
}

/** AuthorityInfoAccessSyntax and the subject's (RFC 5280 section 4.2.2): nothing in it is used, but it must be one. */
function checkAccessDescriptions(outer: DerReader): void {
  const reader = outer.enter();
  if (reader.atEnd) throw reader.fail("empty information access");
  for (let count = 0; !reader.atEnd; count++) {
    if (count === MAX_NAMES) throw reader.fail("too much information access");
    const description = reader.enter();
    description.oid();
    readGeneralName(description.read());
    description.end();
  }
}
