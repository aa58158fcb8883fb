import { equalBytes, toHex } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { signatureSchemeOf, type SignatureScheme } from "./algorithms.ts";
import { DerReader, inside, readWhole, TAG, type DerElement } from "./der.ts";
import { readAuthorityKeyIdentifier, type AuthorityKeyIdentifier } from "./extension-values.ts";
import { readExtensions, type Extension } from "./extensions.ts";
import { nameFrom, type Name } from "./name.ts";
import { OID } from "./oids.ts";
import { readGeneralizedTime, readTime } from "./time.ts";

/** Some 300,000 entries. */
export const MAX_CRL_OCTETS = 16 * 1024 * 1024;

/** CRLReason (RFC 5280 section 5.3.1). */
export const REASONS = {
  unspecified: 0,
  keyCompromise: 1,
  cACompromise: 2,
  affiliationChanged: 3,
  superseded: 4,
  cessationOfOperation: 5,
  certificateHold: 6,
  removeFromCRL: 8,
  privilegeWithdrawn: 9,
  aACompromise: 10,
} as const;
export type RevocationReason = Exclude<keyof typeof REASONS, "removeFromCRL">;

export interface RevokedEntry {
  readonly revokedAt: Date;
  readonly reason: keyof typeof REASONS;
  readonly invalidityDate: Date | undefined;
}

/** TBSCertList (RFC 5280 section 5.1), version 2 only. */
export interface TbsCrl {
  readonly signatureScheme: SignatureScheme | undefined;
  readonly issuer: Name;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  /** By serial number, as in Certificate.serial */
  readonly revoked: ReadonlyMap<string, RevokedEntry>;
  readonly extensions: readonly Extension[];
  readonly number: bigint | undefined;
  readonly aki: AuthorityKeyIdentifier | undefined;
  /** Why no revocation state may be read from it: a delta, indirect or partitioned CRL, or critical unknowns */
  readonly unsupported: string | undefined;
}

export interface Crl extends TbsCrl {
  readonly der: Uint8Array;
  readonly tbs: Uint8Array;
  readonly signature: Uint8Array;
}

/**
 * Parses one DER CRL; v2 with nextUpdate only. Doesn't check the signature.
 * @throws CountersignError `der-invalid`, `crl-invalid`, `input-too-large` above 16 MiB
 */
export function parseCrl(bytes: Uint8Array): Crl {
  if (bytes.length > MAX_CRL_OCTETS) throw tooLarge(bytes.length);
  const outer = inside(readWhole(bytes));
  const tbs = outer.read(TAG.sequence);
  const algorithm = outer.read(TAG.sequence).raw;
  const signature = outer.bitString();
  outer.end();
  const { parsed, identifier } = readTbsCrl(tbs);
  if (!equalBytes(identifier, algorithm))
    throw invalid("the algorithm inside the signed part differs from the one outside");
  return { ...parsed, der: bytes, tbs: tbs.raw, signature };
}

/** Of a CRL what says whose it is: enough to check its signature, and found in no time however long its list is. */
export type SignedCrl = Pick<Crl, "issuer" | "signatureScheme" | "tbs" | "signature">;

/** The same bytes without their entries, which aren't looked at. Throws as {@link parseCrl}. */
export function readSignedCrl(bytes: Uint8Array): SignedCrl {
  if (bytes.length > MAX_CRL_OCTETS) throw tooLarge(bytes.length);
  const outer = inside(readWhole(bytes));
  const tbs = outer.read(TAG.sequence);
  outer.read(TAG.sequence);
  const signature = outer.bitString();
  outer.end();
  const { identifier, issuer } = readHead(inside(tbs));
  return { issuer, signatureScheme: signatureSchemeOf(identifier), tbs: tbs.raw, signature };
}

/** Parses the signed part alone. Throws as {@link parseCrl}. */
export function parseTbsCrl(tbs: Uint8Array): TbsCrl {
  if (tbs.length > MAX_CRL_OCTETS) throw tooLarge(tbs.length);
  return readTbsCrl(readWhole(tbs)).parsed;
}

/** The entry of a serial number (as in Certificate.serial), or undefined. */
export function isRevoked(crl: TbsCrl, serial: string): RevokedEntry | undefined {
  return crl.revoked.get(serial);
}

function readTbsCrl(element: DerElement): { parsed: TbsCrl; identifier: Uint8Array } {
  const reader = inside(element);
  const { identifier, issuer } = readHead(reader);
  const thisUpdate = readTime(reader);
  if (reader.peek() !== TAG.utcTime && reader.peek() !== TAG.generalizedTime) throw invalid("it has no nextUpdate");
  const nextUpdate = readTime(reader);
  const entries = reader.enterOptional(TAG.sequence);
  const { revoked, unsupported: badEntry } = readEntries(entries);
  const extensionList = reader.enterOptional(0xa0);
  const extensions = extensionList === undefined ? [] : readExtensions(extensionList);
  extensionList?.end();
  reader.end();
  const value = (oid: string): DerReader | undefined => {
    const found = extensions.find((extension) => extension.oid === oid);
    return found === undefined ? undefined : new DerReader(found.value, found.offset);
  };
  const number = value(OID.cRLNumber);
  const aki = value(OID.authorityKeyIdentifier);
  const parsed: TbsCrl = {
    signatureScheme: signatureSchemeOf(identifier),
    issuer,
    thisUpdate,
    nextUpdate,
    revoked,
    extensions,
    number: number === undefined ? undefined : BigInt(`0x${toHex(number.unsigned())}`),
    aki: aki === undefined ? undefined : readAuthorityKeyIdentifier(aki),
    unsupported: badEntry ?? unsupportedExtension(extensions),
  };
  number?.end();
  aki?.end();
  return { parsed, identifier };
}

function readHead(reader: DerReader): { identifier: Uint8Array; issuer: Name } {
  if (reader.peek() !== TAG.integer || reader.small(1000) !== 1) throw invalid("it is not version 2");
  const identifier = reader.read(TAG.sequence).raw;
  return { identifier, issuer: nameFrom(reader.read(TAG.sequence)) };
}

function readEntries(list: DerReader | undefined): {
  revoked: Map<string, RevokedEntry>;
  unsupported: string | undefined;
} {
  const revoked = new Map<string, RevokedEntry>();
  let unsupported: string | undefined;
  if (list?.atEnd === true) throw list.fail("empty list of revoked certificates");
  while (list !== undefined && !list.atEnd) {
    const entry = list.enter();
    const serialOctets = entry.unsigned();
    if (serialOctets.length > 20) throw entry.fail("serial number of more than 20 octets");
    const serial = toHex(serialOctets);
    const revokedAt = readTime(entry);
    let reason: keyof typeof REASONS = "unspecified";
    let invalidityDate: Date | undefined;
    for (const { oid, critical, value, offset } of entry.atEnd ? [] : readExtensions(entry)) {
      const reader = new DerReader(value, offset);
      if (oid === OID.reasonCode) {
        const code = reader.small(255, TAG.enumerated);
        const known = Object.entries(REASONS).find(([, number]) => number === code);
        if (known === undefined) throw reader.fail(`unknown revocation reason ${code}`);
        reason = known[0] as keyof typeof REASONS;
        reader.end();
      } else if (oid === OID.invalidityDate) {
        invalidityDate = readGeneralizedTime(reader);
        reader.end();
      } else if (oid === OID.certificateIssuer) {
        unsupported = "it is an indirect CRL";
      } else if (critical) {
        unsupported = `an entry has the unknown critical extension ${oid}`;
      }
    }
    entry.end();
    if (revoked.has(serial)) throw invalid(`serial ${serial} is listed twice`);
    revoked.set(serial, { revokedAt, reason, invalidityDate });
  }
  return { revoked, unsupported };
}

function unsupportedExtension(extensions: readonly Extension[]): string | undefined {
  for (const { oid, critical } of extensions) {
    if (oid === OID.deltaCRLIndicator) return "it is a delta CRL";
    if (oid === OID.issuingDistributionPoint) return "it is an indirect or partitioned CRL";
    if (critical) return `extension ${oid} is critical, and unknown or not to be so`;
  }
  // RFC 5280 section 5.2.3: always there, or the newest CRL couldn't be told
  return extensions.some(({ oid }) => oid === OID.cRLNumber) ? undefined : "it has no CRL number";
}

function invalid(message: string): CountersignError {
  return new CountersignError("crl-invalid", `the CRL is refused: ${message}`);
}

function tooLarge(octets: number): CountersignError {
  const message = `a CRL of ${octets} octets is above the 16 MiB that are read of one, some 300,000 entries`;
  return new CountersignError("input-too-large", message);
}
