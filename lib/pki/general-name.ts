import { CountersignError } from "../domain/errors.ts";
import { utf8 } from "../domain/bytes.ts";
import { explicit, implicit, octetString, oid, sequence } from "./der-write.ts";
import { DerReader, derError, inside, type DerElement } from "./der.ts";
import { nameFrom, parseName, type Name } from "./name.ts";
import { OID } from "./oids.ts";

export interface HardwareModuleName {
  /** Dotted OID of the hardware's type, under which its numbers are unique */
  readonly hwType: string;
  /** 1 to 64 octets */
  readonly hwSerialNum: Uint8Array;
}

/** GeneralName (RFC 5280 section 4.2.1.6). `other`: otherName and registeredID, not looked into. No x400Address or ediPartyName. */
export type GeneralName =
  | { readonly kind: "email" | "dns" | "uri"; readonly value: string }
  /** 4 or 16 octets; in a name constraint 8 or 32, address and mask */
  | { readonly kind: "ip"; readonly value: Uint8Array }
  | { readonly kind: "directory"; readonly value: Name }
  /** otherName HardwareModuleName (RFC 4108 section 5) */
  | { readonly kind: "hardware-module"; readonly value: HardwareModuleName }
  | {
      readonly kind: "other";
      readonly tag: number;
      /** An otherName's type-id, dotted */
      readonly type?: string | undefined;
    };

const TEXT_KINDS: Record<number, "email" | "dns" | "uri"> = { 0x81: "email", 0x82: "dns", 0x86: "uri" };

/** @throws CountersignError `der-invalid` */
export function readGeneralName(element: DerElement): GeneralName {
  const { tag, content, offset } = element;
  const kind = TEXT_KINDS[tag];
  if (kind !== undefined) {
    let value = "";
    for (const octet of content) {
      if (octet === 0 || octet >= 0x80) throw derError(`${kind} name is not IA5String, or holds a NUL`, offset);
      value += String.fromCharCode(octet);
    }
    return { kind, value };
  }
  if (tag === 0x87) return { kind: "ip", value: content };
  if (tag === 0xa4) {
    const wrapper = inside(element);
    const name = nameFrom(wrapper.read(0x30));
    wrapper.end();
    return { kind: "directory", value: name };
  }
  if (tag === 0xa0) return readOtherName(inside(element));
  if (tag === 0x88) {
    new DerReader(element.raw, offset).oid(tag);
    return { kind: "other", tag };
  }
  throw derError("not a GeneralName, or of a kind we don't take", offset);
}

/** In one GeneralNames, and elsewhere where a list could be long: bounds all that follows from it. */
export const MAX_NAMES = 256;

/**
 * GeneralNames (RFC 5280 section 4.2.1.6) to the reader's end: at least one.
 * @throws CountersignError `der-invalid`
 */
export function readGeneralNames(reader: DerReader): GeneralName[] {
  const names: GeneralName[] = [];
  if (reader.atEnd) throw reader.fail("empty GeneralNames");
  while (!reader.atEnd) {
    if (names.length === MAX_NAMES) throw reader.fail(`more than ${MAX_NAMES} names`);
    const element = reader.read();
    const name = readGeneralName(element);
    if (name.kind === "ip" && name.value.length !== 4 && name.value.length !== 16) {
      throw derError("IP address of neither 4 nor 16 octets", element.offset);
    }
    names.push(name);
  }
  return names;
}

/** OtherName ::= SEQUENCE { type-id, value [0] EXPLICIT }. Types but ours are read no further. */
function readOtherName(reader: DerReader): GeneralName {
  const type = reader.oid();
  const wrapper = reader.enter(0xa0);
  reader.end();
  if (type !== OID.hardwareModuleName) {
    wrapper.read();
    wrapper.end();
    return { kind: "other", tag: 0xa0, type };
  }
  const fields = wrapper.enter();
  wrapper.end();
  const hwType = fields.oid();
  const hwSerialNum = fields.octets();
  if (hwSerialNum.length === 0 || hwSerialNum.length > 64) throw fields.fail("hardware number of unusable length");
  fields.end();
  return { kind: "hardware-module", value: { hwType, hwSerialNum } };
}

/** What our certificates may carry as alternative names. */
export type SubjectAltName =
  | { readonly kind: "dns" | "uri" | "email"; readonly value: string }
  | { readonly kind: "ip"; readonly value: Uint8Array }
  /** DER Name */
  | { readonly kind: "directory"; readonly value: Uint8Array }
  | { readonly kind: "hardware-module"; readonly value: HardwareModuleName };

/** @throws CountersignError `input-invalid` */
export function encodeGeneralName(name: SubjectAltName): Uint8Array {
  switch (name.kind) {
    case "ip":
      if (name.value.length !== 4 && name.value.length !== 16) throw invalid("an IP address has 4 or 16 octets");
      return implicit(7, name.value);
    case "directory":
      return explicit(4, parseName(name.value).der);
    case "hardware-module":
      return encodeHardwareModule(name.value);
    default:
      if (!/^[!-~]{1,255}$/.test(name.value))
        throw invalid(`a ${name.kind} name has 1 to 255 ASCII characters, no spaces`);
      return implicit({ email: 1, dns: 2, uri: 6 }[name.kind], utf8(name.value));
  }
}

function encodeHardwareModule({ hwType, hwSerialNum }: HardwareModuleName): Uint8Array {
  if (!/^[0-2](\.(0|[1-9]\d{0,19})){1,20}$/.test(hwType)) throw invalid("a hardware type is a dotted OID");
  if (hwSerialNum.length === 0 || hwSerialNum.length > 64) throw invalid("a hardware number has 1 to 64 octets");
  const module = sequence(oid(hwType), octetString(hwSerialNum));
  return explicit(0, oid(OID.hardwareModuleName), explicit(0, module));
}

/**
 * The octets of a textual IP address: dotted IPv4, or IPv6 as in RFC 4291 section 2.2.
 * @throws CountersignError `input-invalid`
 */
export function ipOctets(text: string): Uint8Array {
  const v4 = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (v4 !== null && v4.slice(1).every((part) => Number(part) < 256)) return Uint8Array.from(v4.slice(1).map(Number));
  const halves = text.split("::");
  const groups = halves.map((half) => (half === "" ? [] : half.split(":")));
  const count = groups.flat().length;
  const wellFormed = groups.flat().every((group) => /^[0-9a-fA-F]{1,4}$/.test(group));
  const complete = halves.length === 1 ? count === 8 : halves.length === 2 && count < 8;
  if (!wellFormed || !complete) throw invalid(`${JSON.stringify(text.slice(0, 60))} is not an IP address`);
  const zeros = Array.from({ length: 8 - count }, () => "0");
  const words = [...groups[0]!, ...zeros, ...(groups[1] ?? [])].map((group) => Number.parseInt(group, 16));
  return Uint8Array.from(words.flatMap((word) => [word >> 8, word & 0xff]));
}

function invalid(message: string): CountersignError {
  return new CountersignError("input-invalid", message);
}
