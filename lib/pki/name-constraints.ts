import type { Certificate } from "./certificate.ts";
import type { NameConstraints } from "./extension-values.ts";
import type { GeneralName } from "./general-name.ts";
import { HOST, nameFault } from "./name-form.ts";
import { matcherOf, splitMailbox, Unsupported, type Constrained } from "./name-matching.ts";
import { OID } from "./oids.ts";

/** The outcome that refuses; `undefined` from {@link constraintFault} means: within the constraints. */
export interface ConstraintFault {
  readonly reason: "name-constraint-violated" | "name-constraint-unsupported";
  readonly message: string;
}

/**
 * How many comparisons of a name with a constraint one validation may cost. Certificates of 64 KiB hold hundreds of
 * either, and there are many pairs of certificates in a path and many paths; honest ones compare a few dozen.
 */
export class NameBudget {
  #left = 50_000;

  /** @returns whether these constraints may still be compared with the certificate's names */
  spend({ permitted, excluded }: NameConstraints, { subject, san }: Certificate): boolean {
    this.#left -= (permitted.length + excluded.length) * (1 + subject.rdns.length + (san?.length ?? 0));
    return this.#left >= 0;
  }
}

/**
 * Name constraints (RFC 5280 sections 4.2.1.10 and 6.1.4 g) of one CA on one certificate below it: its subject, the
 * e-mail addresses in its subject, its alternative names and, for a leaf without DNS names, a common name that reads as
 * one. Forms we can't judge are refused, whether critical or not; so are names too odd to compare safely.
 */
export function constraintFault(
  constraints: NameConstraints,
  certificate: Certificate,
  isLeaf: boolean,
): ConstraintFault | undefined {
  try {
    const bases = [...constraints.permitted, ...constraints.excluded];
    for (const base of bases) checkBase(base);
    const kinds = new Set(bases.map((base) => base.kind));
    if (certificate.san?.some((name) => bases.some((base) => sameUnknownForm(name, base))) === true) {
      throw new Unsupported("a name of a form that is constrained and that we don't process");
    }
    for (const name of constrainedNames(certificate, isLeaf)) {
      if (!kinds.has(name.kind)) continue;
      const matches = matcherOf(name);
      const permitted = constraints.permitted.filter((base) => base.kind === name.kind);
      if (permitted.length > 0 && !permitted.some((base) => matches(base, "permitted"))) {
        return {
          reason: "name-constraint-violated",
          message: `a ${name.kind} name lies outside what an issuer permits`,
        };
      }
      if (constraints.excluded.some((base) => matches(base, "excluded"))) {
        return { reason: "name-constraint-violated", message: `a ${name.kind} name lies in what an issuer excludes` };
      }
    }
    return undefined;
  } catch (error) {
    if (!(error instanceof Unsupported)) throw error;
    return { reason: "name-constraint-unsupported", message: error.message };
  }
}

function constrainedNames({ subject, san }: Certificate, isLeaf: boolean): Constrained[] {
  const names: Constrained[] = [];
  if (subject.rdns.length > 0) names.push({ kind: "directory", value: subject });
  for (const { type, text, tag } of subject.rdns.flat()) {
    if (type !== OID.emailAddress) continue;
    // A type other than IA5String would not be seen as an address by others: make every one comparable, or refuse it.
    names.push({ kind: "email", value: tag === 0x16 ? (text ?? "") : "" });
  }
  for (const name of san ?? []) if (name.kind !== "other" && name.kind !== "hardware-module") names.push(name);
  if (isLeaf && !names.some((name) => name.kind === "dns")) {
    for (const { type, text } of subject.rdns.flat()) {
      if (type === OID.commonName && looksLikeDns(text ?? "")) names.push({ kind: "dns", value: text! });
    }
  }
  return names;
}

/** With white space around it too, and as a wildcard: who matches common names may take those for a host's. */
function looksLikeDns(text: string): boolean {
  return text.includes(".") && /^(\*\.)?[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(text.trim());
}

function checkBase(base: GeneralName): void {
  switch (base.kind) {
    case "directory":
      if (nameFault(base.value) !== undefined) throw new Unsupported("a directory constraint that isn't a name");
      return;
    case "ip":
      if (base.value.length !== 8 && base.value.length !== 32)
        throw new Unsupported("an IP constraint of the wrong length");
      if (!isPrefixMask(base.value.subarray(base.value.length / 2)))
        throw new Unsupported("an IP constraint whose mask isn't a prefix (RFC 4632)");
      return;
    case "dns": // "example.com" is that host and all below; "" is every name. A leading dot isn't defined for DNS.
      if (base.value !== "" && !HOST.test(base.value)) throw new Unsupported("a DNS constraint that isn't a host");
      return;
    case "uri": // ".example.com" or "example.com"
      if (!HOST.test(base.value.replace(/^\./, "")))
        throw new Unsupported(`a ${base.kind} constraint that isn't a host`);
      return;
    case "email":
      if (!HOST.test(base.value.replace(/^\./, "")) && splitMailbox(base.value) === undefined) {
        throw new Unsupported("an e-mail constraint that is neither a mailbox nor a host");
      }
      return;
    case "other":
    case "hardware-module":
      return;
  }
}

/** Names of forms that we don't compare: refused only where they meet (RFC 5280 section 4.2.1.10). */
function sameUnknownForm(name: GeneralName, base: GeneralName): boolean {
  // Constraints on e-mail addresses bind internationalised ones, which come as an otherName (RFC 9598 section 6)
  if (base.kind === "email") return name.kind === "other" && name.type === OID.smtpUtf8Mailbox;
  const tag = (one: GeneralName): number | undefined =>
    one.kind === "other" ? one.tag : one.kind === "hardware-module" ? OTHER_NAME : undefined;
  return tag(name) !== undefined && tag(name) === tag(base);
}

const OTHER_NAME = 0xa0;

function isPrefixMask(mask: Uint8Array): boolean {
  const bits = [...mask].map((octet) => octet.toString(2).padStart(8, "0")).join("");
  return !bits.includes("01");
}
