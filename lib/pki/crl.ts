import { equalBytes, fromHex } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { SignatureAlgorithm } from "../domain/signing.ts";
import { algorithmIdentifier, schemeOf } from "./algorithms.ts";
import * as der from "./der-write.ts";
import { MAX_CRL_OCTETS, parseTbsCrl, REASONS, type RevocationReason } from "./crl-parse.ts";
import type { IssuerInfo } from "./issuer.ts";
import { OID } from "./oids.ts";
import { keyId } from "./spki.ts";
import { encodeGeneralizedTime, encodeTime } from "./time.ts";

export { checkCrl } from "./crl-check.ts";
export { isRevoked, parseCrl, type Crl, type RevocationReason, type RevokedEntry } from "./crl-parse.ts";

export interface CrlEntryParams {
  /** As in Certificate.serial */
  readonly serial: string;
  readonly revokedAt: Date;
  /** Default: unspecified, which is encoded as no reason (RFC 5280 section 5.3.1) */
  readonly reason?: RevocationReason | undefined;
  readonly invalidityDate?: Date | undefined;
}

export interface CrlParams {
  readonly issuer: IssuerInfo;
  /** cRLNumber: must grow from one CRL to the next */
  readonly number: bigint;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  readonly revoked: readonly CrlEntryParams[];
}

/**
 * TBSCertList, version 2, complete for its issuer (RFC 5280 section 5): no delta, no distribution points. Entries are
 * ordered by serial number, so the same state gives the same bytes.
 * @throws CountersignError `input-invalid`, `input-too-large`
 */
export function buildCrl(params: CrlParams): Uint8Array {
  const { issuer, number, thisUpdate, nextUpdate } = params;
  if (number < 0n || number >= 2n ** 159n)
    throw new CountersignError("input-invalid", "a CRL number is 0 to 2^159 - 1");
  const entries = params.revoked.toSorted((a, b) => compareSerials(a.serial, b.serial)).map(entry);
  const authorityKeyIdentifier = der.sequence(der.implicit(0, issuer.ski));
  const tbs = der.sequence(
    der.integer(1),
    algorithmIdentifier(issuer.algorithm),
    issuer.name,
    encodeTime(thisUpdate),
    encodeTime(nextUpdate),
    ...(entries.length === 0 ? [] : [der.sequenceOf(entries)]),
    der.explicit(
      0,
      der.sequence(
        der.sequence(der.oid(OID.authorityKeyIdentifier), der.octetString(authorityKeyIdentifier)),
        der.sequence(der.oid(OID.cRLNumber), der.octetString(der.unsignedInteger(bigOctets(number)))),
      ),
    ),
  );
  if (tbs.length + SIGNATURE_OCTETS <= MAX_CRL_OCTETS) return tbs;
  throw new CountersignError(
    "input-too-large",
    `a CRL of ${entries.length} entries would have ${tbs.length} octets, above the 16 MiB that anybody here reads: ` +
      "nothing was signed. Give the CA a new key, whose list begins empty, and have the old CA certificate revoked",
  );
}

/** What the signature and its frame come to at most. */
const SIGNATURE_OCTETS = 1024;

let construct: (bytes: Uint8Array, issuer: IssuerInfo) => LintedCrlTbs;
let spend: (linted: LintedCrlTbs) => Uint8Array;
const CONSTRUCT = Symbol("LintedCrlTbs");

/** As LintedTbs, for a TBSCertList. */
export class LintedCrlTbs {
  readonly #bytes: Uint8Array;
  #spent = false;
  readonly signatureAlgorithm: SignatureAlgorithm;
  readonly issuerKeyId: string;
  /** As LintedTbs.issuer */
  readonly issuer: IssuerInfo;

  static {
    construct = (bytes, issuer) => new LintedCrlTbs(CONSTRUCT, bytes, issuer);
    spend = (linted) => {
      if (typeof linted !== "object" || linted === null || !(#bytes in linted) || linted.#spent) {
        throw violation("only a CRL that passed the linter can be assembled, and once");
      }
      linted.#spent = true;
      return linted.#bytes;
    };
  }

  private constructor(token: symbol, bytes: Uint8Array, issuer: IssuerInfo) {
    if (token !== CONSTRUCT) throw violation("only lintCrl makes a LintedCrlTbs");
    this.#bytes = bytes.slice();
    this.signatureAlgorithm = issuer.algorithm;
    this.issuerKeyId = keyId(issuer.spki);
    this.issuer = issuer;
    Object.freeze(this);
  }

  /** A copy of the TBSCertList: the message to sign. */
  get bytes(): Uint8Array {
    return this.#bytes.slice();
  }
}

/**
 * Reads the bytes that are about to be signed and holds them against the issuer.
 * @throws CountersignError `profile-violation`, `der-invalid`, `crl-invalid`
 */
export function lintCrl(tbs: Uint8Array, issuer: IssuerInfo): LintedCrlTbs {
  const bytes = tbs.slice();
  const crl = parseTbsCrl(bytes);
  if (crl.signatureScheme !== schemeOf(issuer.algorithm))
    throw violation("its signature algorithm isn't the issuer key's");
  if (!equalBytes(crl.issuer.der, issuer.name)) throw violation("its issuer isn't the CA's subject");
  const aki = crl.aki;
  if (aki?.keyIdentifier === undefined || !equalBytes(aki.keyIdentifier, issuer.ski) || aki.certIssuer !== undefined) {
    throw violation("its authority key identifier isn't the issuer's");
  }
  if (crl.number === undefined) throw violation("it has no CRL number");
  if (crl.thisUpdate >= crl.nextUpdate) throw violation("nextUpdate isn't after thisUpdate");
  if (crl.unsupported !== undefined) throw violation(crl.unsupported);
  const allowed: string[] = [OID.authorityKeyIdentifier, OID.cRLNumber];
  if (crl.extensions.some(({ oid, critical }) => critical || !allowed.includes(oid))) {
    throw violation("it has an extension we don't issue");
  }
  for (const [serial, { revokedAt }] of crl.revoked) {
    if (revokedAt > crl.thisUpdate) throw violation(`serial ${serial} is revoked after thisUpdate`);
  }
  return construct(bytes, issuer);
}

/**
 * DER CertificateList of a linted TBS and its signature (ECDSA: DER). Uses the LintedCrlTbs up.
 * @throws CountersignError `profile-violation` when it was used before or isn't the linter's
 */
export function assembleCrl(linted: LintedCrlTbs, signature: Uint8Array): Uint8Array {
  const bytes = spend(linted);
  return der.sequence(bytes, algorithmIdentifier(linted.signatureAlgorithm), der.bitString(signature));
}

function entry({ serial, revokedAt, reason = "unspecified", invalidityDate }: CrlEntryParams): Uint8Array {
  if (!/^([0-9a-f]{2}){1,20}$/.test(serial))
    throw new CountersignError("input-invalid", "a serial is 1 to 20 hex octets");
  const extensions: Uint8Array[] = [];
  if (reason !== "unspecified") {
    const value = der.encodeElement(0x0a, Uint8Array.of(REASONS[reason]));
    extensions.push(der.sequence(der.oid(OID.reasonCode), der.octetString(value)));
  }
  if (invalidityDate !== undefined) {
    const value = encodeGeneralizedTime(invalidityDate);
    extensions.push(der.sequence(der.oid(OID.invalidityDate), der.octetString(value)));
  }
  return der.sequence(
    der.unsignedInteger(fromHex(serial)),
    encodeTime(revokedAt),
    ...(extensions.length === 0 ? [] : [der.sequence(...extensions)]),
  );
}

function compareSerials(a: string, b: string): number {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
}

function bigOctets(value: bigint): Uint8Array {
  const hex = value.toString(16);
  return fromHex(hex.length % 2 === 0 ? hex : `0${hex}`);
}

function violation(message: string): CountersignError {
  return new CountersignError("profile-violation", `not a CRL we sign: ${message}; nothing was signed`);
}
