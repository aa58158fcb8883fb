import { equalBytes, toHex } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { signatureSchemeOf, type SignatureScheme } from "./algorithms.ts";
import { derError, inside, readWhole, TAG, type DerElement, type DerReader } from "./der.ts";
import { readExtensionValues, type ExtensionValues } from "./extension-values.ts";
import { readExtensions, type Extension } from "./extensions.ts";
import { nameFrom, sameName, type Name } from "./name.ts";
import { pemDecode } from "./pem.ts";
import { readTime } from "./time.ts";

export const MAX_CERTIFICATE_OCTETS = 64 * 1024;

/** TBSCertificate (RFC 5280 section 4.1), version 3 only. */
export interface TbsCertificate extends ExtensionValues {
  /** Lower-case hex of the serial number's magnitude, whole octets, no sign octet */
  readonly serial: string;
  /** undefined for an algorithm we don't take */
  readonly signatureScheme: SignatureScheme | undefined;
  readonly issuer: Name;
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly subject: Name;
  /** DER SubjectPublicKeyInfo, not validated: see readSpki */
  readonly spki: Uint8Array;
  readonly extensions: readonly Extension[];
}

export interface Certificate extends TbsCertificate {
  readonly der: Uint8Array;
  /** The signed bytes */
  readonly tbs: Uint8Array;
  readonly signature: Uint8Array;
  /** Subject and issuer are the same name (RFC 5280 section 3.2) */
  readonly selfIssued: boolean;
}

/**
 * Parses one DER certificate. Strict: v3, positive serial number of at most 20 octets, inner and outer algorithm equal,
 * no extension twice, no unique identifiers. Says nothing about who signed it: see validatePath.
 * @throws CountersignError `der-invalid`, `certificate-invalid` (with `details.rule`), `input-too-large` above 64 KiB
 */
export function parseCertificate(der: Uint8Array): Certificate {
  if (der.length > MAX_CERTIFICATE_OCTETS) {
    throw new CountersignError("input-too-large", `a certificate of ${der.length} octets is above the limit of 64 KiB`);
  }
  const outer = inside(readWhole(der));
  const tbs = outer.read(TAG.sequence);
  const algorithm = outer.read(TAG.sequence);
  const signature = outer.bitString();
  outer.end();
  const { parsed, identifier } = readTbs(tbs);
  if (!equalBytes(identifier, algorithm.raw)) {
    throw invalid("algorithm-mismatch", "the algorithm inside the signed part differs from the one outside");
  }
  return { ...parsed, der, tbs: tbs.raw, signature, selfIssued: sameName(parsed.issuer, parsed.subject) };
}

/** Parses the signed part alone. Throws as {@link parseCertificate}. */
export function parseTbsCertificate(tbs: Uint8Array): TbsCertificate {
  if (tbs.length > MAX_CERTIFICATE_OCTETS) {
    throw new CountersignError(
      "input-too-large",
      `a TBSCertificate of ${tbs.length} octets is above the limit of 64 KiB`,
    );
  }
  return readTbs(readWhole(tbs)).parsed;
}

/**
 * All certificates of a PEM text, in its order. Text between blocks is ignored, other blocks are refused.
 * @throws as {@link parseCertificate}, and `pem-invalid`
 */
export function parseCertificatesPem(text: string): Certificate[] {
  return pemDecode(text, "CERTIFICATE").map(parseCertificate);
}

function readTbs(element: DerElement): { parsed: TbsCertificate; identifier: Uint8Array } {
  const reader = inside(element);
  const version = reader.enterOptional(0xa0);
  if (version === undefined || version.small(1000) !== 2) throw invalid("version", "it is not version 3");
  version.end();
  const serial = readSerial(reader);
  const identifier = reader.read(TAG.sequence).raw;
  const issuer = nameFrom(reader.read(TAG.sequence));
  const validity = reader.enter();
  const notBefore = readTime(validity);
  const notAfter = readTime(validity);
  validity.end();
  const subject = nameFrom(reader.read(TAG.sequence));
  const spki = reader.read(TAG.sequence).raw;
  if (reader.peek() === 0x81 || reader.peek() === 0x82) throw invalid("unique-id", "it has a unique identifier");
  const extensionList = reader.enterOptional(0xa3);
  const extensions = extensionList === undefined ? [] : readExtensions(extensionList);
  extensionList?.end();
  reader.end();
  const parsed: TbsCertificate = {
    serial,
    signatureScheme: signatureSchemeOf(identifier),
    issuer,
    notBefore,
    notAfter,
    subject,
    spki,
    extensions,
    ...readExtensionValues(extensions),
  };
  return { parsed, identifier };
}

/**
 * CertificateSerialNumber (RFC 5280 section 4.1.2.2) as TbsCertificate has it.
 * @throws CountersignError `der-invalid`, `certificate-invalid`
 */
export function readSerial(reader: DerReader): string {
  const offset = reader.offset;
  const serial = reader.integer();
  if (serial[0]! >= 0x80 || (serial.length === 1 && serial[0] === 0)) {
    throw invalid("serial", "its serial number is not positive");
  }
  if (serial.length > 20) throw derError("serial number of more than 20 octets", offset);
  return toHex(serial[0] === 0 ? serial.subarray(1) : serial);
}

function invalid(rule: string, message: string): CountersignError {
  return new CountersignError("certificate-invalid", `the certificate is refused: ${message}`, { details: { rule } });
}
