import { toHex, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { compareOctets, encodeElement, oid, sequence, setOf } from "./der-write.ts";
import { derError, inside, readWhole, TAG, type DerElement, type DerReader } from "./der.ts";
import { stringText } from "./directory-string.ts";
import { OID } from "./oids.ts";

const MAX_RDNS = 32;
const MAX_ATTRIBUTES = 8;

export interface NameAttribute {
  /** Attribute type, dotted OID */
  readonly type: string;
  /** String type of the value (DER tag) */
  readonly tag: number;
  /** undefined where the value's type holds no text */
  readonly text: string | undefined;
}

/** A distinguished name (RFC 5280 section 4.1.2.4). */
export interface Name {
  /** The RDNSequence's exact DER: what chains and comparisons of issued bytes use */
  readonly der: Uint8Array;
  readonly rdns: readonly (readonly NameAttribute[])[];
  /** One comparison key for each RDN; see {@link sameName} */
  readonly canonical: readonly string[];
  /** The common name, if there is exactly one */
  readonly cn: string | undefined;
}

/** What our own names are made of, encoded in this order, from the widest to the narrowest. */
export interface NameParts {
  /** ISO 3166 code of two letters */
  readonly country?: string | undefined;
  readonly organization?: string | undefined;
  readonly organizationalUnit?: string | undefined;
  readonly commonName?: string | undefined;
  readonly serialNumber?: string | undefined;
}

/** @throws CountersignError `der-invalid` */
export function parseName(der: Uint8Array): Name {
  return nameFrom(readWhole(der));
}

/** @throws CountersignError `der-invalid` */
export function nameFrom(element: DerElement): Name {
  const reader = inside(element);
  const rdns: NameAttribute[][] = [];
  const canonical: string[] = [];
  while (!reader.atEnd) {
    if (rdns.length === MAX_RDNS) throw reader.fail(`name with more than ${MAX_RDNS} RDNs`);
    const { attributes, key } = readRdn(reader.enter(TAG.set));
    rdns.push(attributes);
    canonical.push(key);
  }
  const commonNames = rdns.flat().filter((attribute) => attribute.type === OID.commonName);
  return {
    der: element.raw,
    rdns,
    canonical,
    cn: commonNames.length === 1 ? commonNames[0]!.text : undefined,
  };
}

/**
 * RelativeDistinguishedName: the content of its SET, to the reader's end.
 * @returns its attributes, and its comparison key
 * @throws CountersignError `der-invalid`
 */
export function readRdn(reader: DerReader): { attributes: NameAttribute[]; key: string } {
  const attributes: NameAttribute[] = [];
  const keys: string[] = [];
  let previous: DerElement | undefined;
  while (!reader.atEnd) {
    if (attributes.length === MAX_ATTRIBUTES) throw reader.fail(`RDN with more than ${MAX_ATTRIBUTES} attributes`);
    const member = reader.read(TAG.sequence);
    if (previous && compareOctets(previous.raw, member.raw) >= 0) throw derError("SET OF not in order", member.offset);
    previous = member;
    const attribute = inside(member);
    const type = attribute.oid();
    const value = attribute.read();
    attribute.end();
    const text = stringText(value);
    attributes.push({ type, tag: value.tag, text });
    keys.push(`${type}=${canonicalValue(value, text)}`);
  }
  if (attributes.length === 0) throw reader.fail("empty RDN");
  return { attributes, key: JSON.stringify(keys.toSorted()) };
}

/**
 * Name comparison (RFC 5280 section 7.1), as OpenSSL does it: string types aside, ASCII case folded, outer white space
 * dropped and inner runs of it one space. Values of other types compare by type and octets.
 */
export function sameName(a: Name, b: Name): boolean {
  return a.canonical.length === b.canonical.length && isWithin(a, b);
}

/** Whether `name` lies in the subtree `base`: the base's RDNs are its first ones (RFC 5280 section 4.2.1.10). */
export function isWithin(name: Name, base: Name): boolean {
  return base.canonical.every((rdn, i) => name.canonical[i] === rdn);
}

function canonicalValue({ tag, content }: DerElement, text: string | undefined): string {
  if (text === undefined || tag === TAG.numericString) return `#${tag}:${toHex(content)}`;
  const spaced = text.replace(/[ \t\n\v\f\r]+/g, " ").replace(/^ | $/g, "");
  return `"${spaced.replace(/[A-Z]/g, (letter) => letter.toLowerCase())}`;
}

const PRINTABLE = /^[A-Za-z0-9 '()+,\-./:=?]+$/;

/**
 * DER Name. CN, O and OU are UTF8String, C and serialNumber PrintableString as X.520 demands (RFC 5280 section 4.1.2.4
 * and appendix A.1 for the lengths).
 * @throws CountersignError `input-invalid`
 */
export function buildName(parts: NameParts): Uint8Array {
  const rdns: Uint8Array[] = [];
  const add = (type: string, tag: number, value: string | undefined, max: number): void => {
    if (value === undefined) return;
    const length = [...value].length;
    if (length < 1 || length > max) throw invalid(`a name attribute must have 1 to ${max} characters, not ${length}`);
    if (/\p{Cc}/u.test(value) || !value.isWellFormed()) throw invalid("a name attribute holds a control character");
    if (tag === TAG.printableString && !PRINTABLE.test(value))
      throw invalid("serialNumber and C take PrintableString only");
    rdns.push(setOf(sequence(oid(type), encodeElement(tag, utf8(value)))));
  };
  if (parts.country !== undefined && !/^[A-Z]{2}$/.test(parts.country))
    throw invalid("a country is two capital letters");
  add(OID.countryName, TAG.printableString, parts.country, 2);
  add(OID.organizationName, TAG.utf8String, parts.organization, 64);
  add(OID.organizationalUnitName, TAG.utf8String, parts.organizationalUnit, 64);
  add(OID.commonName, TAG.utf8String, parts.commonName, 64);
  add(OID.serialNumber, TAG.printableString, parts.serialNumber, 64);
  return sequence(...rdns);
}

const SHORT_NAMES: Record<string, string> = {
  [OID.commonName]: "CN",
  [OID.organizationName]: "O",
  [OID.organizationalUnitName]: "OU",
  [OID.countryName]: "C",
  [OID.serialNumber]: "serialNumber",
};

/** For people: `O=Factory-Y, CN=Factory-Y CA`. Not for comparing. */
export function formatName(name: Name): string {
  return name.rdns
    .flat()
    .map(({ type, text }) => `${SHORT_NAMES[type] ?? type}=${(text ?? "?").replace(/[\p{C}]/gu, "?")}`)
    .join(", ");
}

function invalid(message: string): CountersignError {
  return new CountersignError("input-invalid", message);
}
