import { nodeVerify } from "../../hsm/verify.ts";
import { utf8 } from "../../lib/domain/bytes.ts";
import * as der from "../../lib/pki/der-write.ts";
import { ipOctets, type SubjectAltName } from "../../lib/pki/general-name.ts";
import { buildName } from "../../lib/pki/name.ts";
import { OID } from "../../lib/pki/oids.ts";
import { validatePath, type PathRequest } from "../../lib/pki/path.ts";
import { throwawayKey, type ThrowawayKey } from "./issuing.ts";
import { AT } from "./mutated-chains.ts";
import { rawCertificate, rawDefaults, rawExtension as ext, type RawCertificate } from "./raw-certificate.ts";

/** A good path of three, and ways to change one certificate of it at a time. */

export const KEYS = { root: throwawayKey(), ca: throwawayKey(), leaf: throwawayKey(), other: throwawayKey() };
export const NAMES = { root: buildName({ commonName: "Root" }), ca: buildName({ commonName: "CA" }) };
export const CA_BASICS = [ext.basicConstraints(true), ext.keyUsage(["keyCertSign", "cRLSign"])];
let serial = 0;

export function make(
  subject: Uint8Array,
  key: ThrowawayKey,
  issuer: { subject: Uint8Array; key: ThrowawayKey },
  ca = true,
) {
  const extensions = ca ? [...CA_BASICS] : [ext.basicConstraints(false), ext.keyUsage(["digitalSignature"])];
  return rawDefaults({ subject, key, issuer, extensions, serial: ++serial, at: AT });
}
export const root = (): RawCertificate => make(NAMES.root, KEYS.root, { subject: NAMES.root, key: KEYS.root });
export const ca = (): RawCertificate => make(NAMES.ca, KEYS.ca, { subject: NAMES.root, key: KEYS.root });
export const leaf = (): RawCertificate =>
  make(buildName({ organization: "Y", commonName: "dev-1" }), KEYS.leaf, { subject: NAMES.ca, key: KEYS.ca }, false);

export interface Spoil {
  root?: (raw: RawCertificate) => void;
  ca?: (raw: RawCertificate) => void;
  leaf?: (raw: RawCertificate) => void;
}

export function spoiled(spoil: Spoil): { chain: Uint8Array[]; roots: Uint8Array[] } {
  const made = { root: root(), ca: ca(), leaf: leaf() };
  for (const place of ["root", "ca", "leaf"] as const) spoil[place]?.(made[place]);
  return { chain: [rawCertificate(made.leaf), rawCertificate(made.ca)], roots: [rawCertificate(made.root)] };
}

export async function outcome(request: Partial<PathRequest> & Pick<PathRequest, "chain" | "roots">): Promise<string> {
  const result = await validatePath({ at: AT, verify: nodeVerify, ...request });
  return result.ok ? `ok ${result.path.length}` : `${result.reason}@${result.index}`;
}

export const put =
  (oid: string, critical: boolean, value: Uint8Array) =>
  (raw: RawCertificate): void =>
    void raw.extensions.push(ext.any(oid, critical, value));
export const without =
  (oid: string) =>
  (raw: RawCertificate): void =>
    void (raw.extensions = raw.extensions.filter((one) => one.oid !== oid));
export const constrain =
  (permitted: Uint8Array[], excluded: Uint8Array[] = [], critical = true) =>
  (raw: RawCertificate) =>
    void raw.extensions.push(ext.nameConstraints(permitted, excluded, critical));
export const named =
  (subject: Uint8Array, ...names: SubjectAltName[]) =>
  (raw: RawCertificate) => {
    raw.subject = subject;
    if (names.length > 0) raw.extensions.push(ext.san(names, subject.length === 2));
  };
export const attribute = (oid: string, tag: number, octets: Uint8Array): Uint8Array =>
  der.setOf(der.sequence(der.oid(oid), der.encodeElement(tag, octets)));
export const algorithm = (identifier: Uint8Array) => (raw: RawCertificate) =>
  void (raw.innerAlgorithm = raw.outerAlgorithm = identifier);
export const time = (tag: number, text: string): Uint8Array => der.encodeElement(tag, utf8(text));
export const gn = {
  dns: (value: string) => der.implicit(2, utf8(value)),
  email: (value: string) => der.implicit(1, utf8(value)),
  uri: (value: string) => der.implicit(6, utf8(value)),
  ip: (base: string, mask: string) => der.implicit(7, Uint8Array.of(...ipOctets(base), ...ipOctets(mask))),
  directory: (name: Uint8Array) => der.explicit(4, name),
};
export const dns = (value: string): SubjectAltName => ({ kind: "dns", value });
export const email = (value: string): SubjectAltName => ({ kind: "email", value });
export const uri = (value: string): SubjectAltName => ({ kind: "uri", value });
export const ip = (value: string): SubjectAltName => ({ kind: "ip", value: ipOctets(value) });
export const Y = buildName({ organization: "Y" });
export const subject = buildName({ organization: "Y", commonName: "dev-1" });
export const withMail = (address: string, tag = 0x16): Uint8Array =>
  der.sequence(attribute(OID.emailAddress, tag, utf8(address)));
export const bmp = (text: string): Uint8Array => Uint8Array.from([...text].flatMap((c) => [0, c.charCodeAt(0)]));
