import { TAG } from "./der.ts";
import type { GeneralName } from "./general-name.ts";
import type { Name, NameAttribute } from "./name.ts";
import { OID } from "./oids.ts";

/**
 * Whether names are what RFC 5280 lets them be. Parsing doesn't ask: what can't be a name may still be read and shown.
 * A path is refused for one, since others would read it as another name than we do, or not at all.
 */

/** Attribute types whose values are strings (X.520, RFC 4519, RFC 2985). */
const STRING_TYPES = new Set<string>([
  ...[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 20, 41, 42, 43, 44, 46, 54, 65, 97].map((arc) => `2.5.4.${arc}`),
  "0.9.2342.19200300.100.1.1", // userid
  OID.domainComponent,
  OID.emailAddress,
]);

/** What the string types may hold (X.680 section 41); the others were checked as they were read. */
const CHARACTERS: Record<number, RegExp> = {
  [TAG.printableString]: /^[A-Za-z0-9 '()+,\-./:=?]*$/,
  [TAG.numericString]: /^[0-9 ]*$/,
};

/** Why a distinguished name isn't well-formed, or undefined. */
export function nameFault(name: Name): string | undefined {
  return name.rdns.flat().some((one) => !isWellFormed(one))
    ? "an attribute of a name isn't a string of its type"
    : undefined;
}

function isWellFormed({ type, tag, text }: NameAttribute): boolean {
  // VisibleString is none of the choices of DirectoryString, nor what any of these types asks for
  if (text === undefined || tag === TAG.visibleString) return !STRING_TYPES.has(type);
  return CHARACTERS[tag]?.test(text) !== false;
}

const LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
/** A host's name in the preferred syntax of RFC 1034 and 1123: no underscores, no dot at its end. */
export const HOST = new RegExp(`^(?=.{1,253}$)${LABEL}(?:\\.${LABEL})*$`);

/** RFC 3986's characters behind a scheme. */
const URI = /^[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$/;

/** Why a subject alternative name isn't well-formed (RFC 5280 section 4.2.1.6), or undefined. */
export function alternativeNameFault(name: GeneralName): string | undefined {
  switch (name.kind) {
    case "dns":
      return HOST.test(name.value.replace(/^\*\./, "")) ? undefined : "a DNS name that is none";
    case "email":
      return /^[!-~ ]*[!-~]@[!-?A-~]+$/.test(name.value) ? undefined : "an e-mail address that is none";
    case "uri": // "MUST NOT be relative"
      return URI.test(name.value) ? undefined : "a URI that is none, or relative";
    case "directory":
      return nameFault(name.value);
    default:
      return undefined;
  }
}
