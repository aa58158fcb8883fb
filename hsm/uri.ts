import { fromUtf8, utf8 } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";

/**
 * PKCS#11 URIs, RFC 7512. Stricter than the RFC in three points: unknown attributes are refused (a selector that is
 * skipped could choose another token), text must be UTF-8 without control characters, and `pin-value` is refused.
 */

export const PKCS11_OBJECT_TYPES = ["public", "private", "cert", "secret-key", "data"] as const;
export type Pkcs11ObjectType = (typeof PKCS11_OBJECT_TYPES)[number];

export interface Pkcs11Uri {
  token?: string;
  serial?: string;
  manufacturer?: string;
  model?: string;
  /** CK_SLOT_ID */
  slotId?: number;
  /** CKA_LABEL */
  object?: string;
  /** CKA_ID, at least one byte */
  id?: Uint8Array;
  type?: Pkcs11ObjectType;
  pinSource?: string;
  modulePath?: string;
}

type TextField = "token" | "serial" | "manufacturer" | "model" | "object";
const TEXT_ATTRIBUTES: Readonly<Record<string, TextField>> = {
  token: "token",
  serial: "serial",
  manufacturer: "manufacturer",
  model: "model",
  object: "object",
};
const QUERY_ATTRIBUTES: Readonly<Record<string, "pinSource" | "modulePath">> = {
  "pin-source": "pinSource",
  "module-path": "modulePath",
};

const MAX_LENGTH = 4096;
const UNRESERVED = "A-Za-z0-9\\-._~";
const SHARED = ":\\[\\]@!$'()*+,=";
const PATH_VALUE = new RegExp(`^(?:[${UNRESERVED}${SHARED}&]|%[0-9A-Fa-f]{2})+$`);
const QUERY_VALUE = new RegExp(`^(?:[${UNRESERVED}${SHARED}/?|]|%[0-9A-Fa-f]{2})+$`);

// The URI itself stays out of messages: a refused one may hold a pin-value.
function refuse(why: string): never {
  throw new CountersignError("input-invalid", `not an acceptable PKCS#11 URI (RFC 7512): ${why}`);
}

function decode(text: string): Uint8Array {
  const out: number[] = [];
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "%") {
      out.push(Number.parseInt(text.slice(i + 1, i + 3), 16));
      i += 2;
    } else {
      out.push(text.charCodeAt(i));
    }
  }
  return Uint8Array.from(out);
}

// eslint-disable-next-line no-control-regex -- control characters are exactly what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;

function checkText(name: string, text: string): string {
  if (text.length === 0) refuse(`"${name}" is empty`);
  if (!text.isWellFormed() || CONTROL.test(text)) refuse(`"${name}" is not printable UTF-8`);
  return text;
}

function decodeText(name: string, value: string): string {
  let text: string;
  try {
    text = fromUtf8(decode(value));
  } catch {
    refuse(`"${name}" is not printable UTF-8`);
  }
  return checkText(name, text);
}

function* attributes(part: string, separator: string, allowed: RegExp): Generator<[string, string]> {
  const seen = new Set<string>();
  for (const attribute of part.split(separator)) {
    const equals = attribute.indexOf("=");
    if (equals < 1) refuse("an attribute isn't name=value");
    const name = attribute.slice(0, equals);
    const value = attribute.slice(equals + 1);
    if (!/^[a-z-]{1,32}$/.test(name)) refuse("an attribute's name is not known");
    if (name === "pin-value") refuse("pin-value is refused, a PIN never stands in a URI: use a PIN file");
    if (seen.has(name)) refuse(`"${name}" stands twice`);
    seen.add(name);
    if (!allowed.test(value)) refuse(`the value of "${name}" is empty or not percent-encoded`);
    yield [name, value];
  }
}

/** @throws CountersignError `input-invalid` */
export function parsePkcs11Uri(text: string): Pkcs11Uri {
  if (text.length > MAX_LENGTH) refuse(`it is longer than ${MAX_LENGTH} characters`);
  if (!/^pkcs11:/i.test(text)) refuse('it doesn\'t start with "pkcs11:"');
  const question = text.indexOf("?");
  const path = text.slice("pkcs11:".length, question < 0 ? undefined : question);
  const query = question < 0 ? undefined : text.slice(question + 1);
  const uri: Pkcs11Uri = {};
  for (const [name, value] of path === "" ? [] : attributes(path, ";", PATH_VALUE)) {
    const field = Object.hasOwn(TEXT_ATTRIBUTES, name) ? TEXT_ATTRIBUTES[name] : undefined;
    if (field !== undefined) uri[field] = decodeText(name, value);
    else if (name === "id") uri.id = decode(value);
    else if (name === "type") uri.type = objectType(value);
    else if (name === "slot-id") uri.slotId = slotId(value);
    else refuse(`path attribute "${name}" is not supported`);
  }
  for (const [name, value] of query === undefined ? [] : attributes(query, "&", QUERY_VALUE)) {
    const field = Object.hasOwn(QUERY_ATTRIBUTES, name) ? QUERY_ATTRIBUTES[name] : undefined;
    if (field === undefined) refuse(`query attribute "${name}" is not supported`);
    uri[field] = decodeText(name, value);
  }
  return uri;
}

function objectType(value: string): Pkcs11ObjectType {
  return PKCS11_OBJECT_TYPES.find((type) => type === value) ?? refuse('"type" is not one of RFC 7512\'s');
}

function slotId(value: string): number {
  if (!/^[0-9]{1,15}$/.test(value)) refuse('"slot-id" is not a decimal number');
  return Number(value);
}

function encode(bytes: Uint8Array): string {
  let out = "";
  for (const byte of bytes) {
    const char = String.fromCharCode(byte);
    out += /[A-Za-z0-9\-._~]/.test(char) ? char : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return out;
}

/**
 * The canonical form: attributes in a fixed order, everything but unreserved characters percent-encoded, every byte of
 * `id` too (RFC 7512 section 2.3).
 * @throws CountersignError `input-invalid` for values no URI can hold
 */
export function formatPkcs11Uri(uri: Pkcs11Uri): string {
  const path: string[] = [];
  const text = (name: string, value: string | undefined, into: string[]): void => {
    if (value !== undefined) into.push(`${name}=${encode(utf8(checkText(name, value)))}`);
  };
  text("token", uri.token, path);
  text("serial", uri.serial, path);
  text("manufacturer", uri.manufacturer, path);
  text("model", uri.model, path);
  if (uri.slotId !== undefined) path.push(`slot-id=${slotId(String(uri.slotId))}`);
  text("object", uri.object, path);
  if (uri.id !== undefined) {
    if (uri.id.length === 0) refuse('"id" is empty');
    path.push(`id=${Array.from(uri.id, (byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`).join("")}`);
  }
  if (uri.type !== undefined) path.push(`type=${objectType(uri.type)}`);
  const query: string[] = [];
  text("pin-source", uri.pinSource, query);
  text("module-path", uri.modulePath, query);
  return `pkcs11:${path.join(";")}${query.length === 0 ? "" : `?${query.join("&")}`}`;
}
