import { TAG } from "./der.ts";
import type { GeneralName } from "./general-name.ts";
import { HOST } from "./name-form.ts";
import { isWithin, type Name } from "./name.ts";

export type Constrained = Extract<GeneralName, { kind: "directory" | "dns" | "email" | "uri" | "ip" }>;
type Side = "permitted" | "excluded";

/** Neither within nor without: too odd to compare safely. */
export class Unsupported extends Error {}

/**
 * Tells whether a name lies within a base of its kind (RFC 5280 section 4.2.1.10); of other kinds it never does. What
 * the name costs is done once here, since there may be hundreds of bases.
 * @throws Unsupported here or from the matcher
 */
export function matcherOf(name: Constrained): (base: GeneralName, side: Side) => boolean {
  switch (name.kind) {
    case "directory":
      return (base, side) => base.kind === "directory" && directoryMatches(name.value, base.value, side);
    case "ip":
      return (base) => base.kind === "ip" && ipMatches(name.value, base.value);
    case "dns":
      return dnsMatcher(name.value);
    case "uri": {
      const host = uriHost(name.value);
      return (base) => base.kind === "uri" && hostMatches(host, base.value);
    }
    case "email":
      return emailMatcher(name.value);
  }
}

/** To exclude, letters are folded further than ASCII: what might be the same name is. */
function directoryMatches(name: Name, base: Name, side: Side): boolean {
  if (side === "permitted") return isWithin(name, base);
  // These compare by type and octets: what isn't the same name here may be to others
  const odd = name.rdns.slice(0, base.rdns.length).flat();
  if (odd.some(({ tag, text }) => text === undefined || tag === TAG.numericString))
    throw new Unsupported("a directory name that can't be compared");
  const [names, bases] = [folded(name), folded(base)];
  return bases.every((rdn, i) => names[i] === rdn);
}

/** Folding a name of 64 KiB takes a millisecond, and hundreds may be compared with hundreds, in many paths. */
const FOLDED = new WeakMap<Name, readonly string[]>();

function folded(name: Name): readonly string[] {
  let rdns = FOLDED.get(name);
  if (rdns === undefined) {
    rdns = name.canonical.map((rdn) => rdn.normalize("NFKC").toLowerCase());
    FOLDED.set(name, rdns);
  }
  return rdns;
}

function ipMatches(address: Uint8Array, base: Uint8Array): boolean {
  const width = base.length / 2;
  if (address.length !== width) return false;
  return address.every((octet, i) => (octet & base[width + i]!) === (base[i]! & base[width + i]!));
}

function dnsMatcher(name: string): (base: GeneralName, side: Side) => boolean {
  const wildcard = name.startsWith("*.");
  const host = (wildcard ? name.slice(2) : name).toLowerCase();
  if (!HOST.test(host)) throw new Unsupported("a DNS name that can't be compared");
  return (base, side) => {
    if (base.kind !== "dns") return false;
    if (base.value === "") return true;
    const suffix = base.value.toLowerCase();
    if (host === suffix || host.endsWith(`.${suffix}`)) return true;
    // A wildcard is excluded as soon as one name it stands for may be
    return side === "excluded" && wildcard && suffix.endsWith(`.${host}`);
  };
}

function hostMatches(host: string, base: string): boolean {
  const suffix = base.toLowerCase();
  return suffix.startsWith(".") ? host.endsWith(suffix) && host.length > suffix.length : host === suffix;
}

/** The host of a URI constraint is a fully qualified name: RFC 5280 refuses URIs without one, and IP addresses. */
function uriHost(uri: string): string {
  const match = /^[A-Za-z][A-Za-z0-9+.-]*:\/\/([A-Za-z0-9_.-]+)(?::\d{1,5})?(?:\/|$)/.exec(uri);
  const host = match?.[1]?.toLowerCase();
  if (host === undefined || !HOST.test(host) || /(^|\.)\d+$/.test(host)) {
    throw new Unsupported("a URI whose host can't be compared");
  }
  return host;
}

function emailMatcher(mailbox: string): (base: GeneralName) => boolean {
  const parts = splitMailbox(mailbox);
  if (parts === undefined) throw new Unsupported("an e-mail address that can't be compared");
  return (base) => {
    if (base.kind !== "email") return false;
    const wanted = splitMailbox(base.value);
    if (wanted === undefined) return hostMatches(parts.host, base.value);
    return parts.local === wanted.local && parts.host === wanted.host;
  };
}

export function splitMailbox(text: string): { local: string; host: string } | undefined {
  const match = /^([A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64})@([^@]{1,253})$/.exec(text);
  if (match === null || !HOST.test(match[2]!)) return undefined;
  return { local: match[1]!, host: match[2]!.toLowerCase() };
}
