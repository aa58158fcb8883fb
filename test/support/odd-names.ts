import fc from "fast-check";
import * as der from "../../lib/pki/der-write.ts";
import type { SubjectAltName } from "../../lib/pki/general-name.ts";
import { OID } from "../../lib/pki/oids.ts";
import { constrainedChain, type MutatedChain } from "./mutated-chains.ts";
import { attribute, gn } from "./spoiled-path.ts";

/** Name constraints and names of a few odd pieces, so that they often meet, nearly meet, or make no sense. */

const host = fc
  .array(fc.constantFrom("a", "b", "A", "evil", "a-b", "_x", "1", "xn--a", "*", "", "-a", "aa"), {
    minLength: 1,
    maxLength: 4,
  })
  .map((labels) => labels.join("."));
const before = (...pieces: string[]): fc.Arbitrary<string> =>
  fc.tuple(fc.constantFrom(...pieces), host).map(([piece, rest]) => piece + rest);
const mailbox = before("x@", "X@", '"a@b"@', "@", "x@y@", "x.y@", "x%@");
const url = fc
  .tuple(
    before("https://", "HTTP://", "urn:", "//", "https:", "ldap://u:p@", "https://u@", "https://[::1]", "a+b://"),
    fc.constantFrom("", "/", ":80", ":80/", "?q", "#f", "/@evil", ":", "\\@evil", ":a/"),
  )
  .map((parts) => parts.join(""));

/** Names of one or two RDNs whose texts differ in case, white space, letters that fold, and string type. */
const directory = fc
  .array(
    fc
      .record({
        type: fc.constantFrom(OID.commonName, OID.organizationName),
        tag: fc.constantFrom(0x0c, 0x13, 0x14, 0x16),
        text: fc.array(fc.constantFrom("a", "A", " ", "\t", "é", "ß", "k", "_"), { minLength: 1, maxLength: 3 }),
      })
      // Beyond ASCII the other two can't even be parsed
      .filter(({ tag, text }) => tag === 0x0c || tag === 0x14 || !/[éß]/.test(text.join(""))),
    { minLength: 1, maxLength: 2 },
  )
  .map((rdns) =>
    der.sequence(
      ...rdns.map(({ type, tag, text }) =>
        attribute(type, tag, Buffer.from(text.join(""), tag === 0x0c ? "utf8" : "latin1")),
      ),
    ),
  );

interface Pair {
  readonly base: Uint8Array;
  readonly name: SubjectAltName;
}

/** The name as drawn, or made from the base. */
function texts(
  kind: "dns" | "email" | "uri",
  bases: fc.Arbitrary<string>,
  names: fc.Arbitrary<string>,
  near: (base: string) => string[],
): fc.Arbitrary<Pair> {
  return fc
    .tuple(bases, names, fc.nat({ max: 5 }))
    .map(([base, name, dice]) => ({ base, value: near(base)[dice] ?? name }))
    .filter(({ value }) => /^[!-~]{1,255}$/.test(value))
    .map(({ base, value }) => ({ base: gn[kind](base), name: { kind, value } }));
}

const pair: fc.Arbitrary<Pair> = fc.oneof(
  texts("dns", fc.oneof(host, before(".")), fc.oneof(host, before("*.")), (base) => [base, `a.${base}`]),
  texts("email", fc.oneof(host, before("."), mailbox), mailbox, (base) => [base, `x@${base}`]),
  texts("uri", fc.oneof(host, before(".")), url, (base) => [`https://${base}/`, `https://x${base}`]),
  fc.tuple(directory, directory, fc.boolean()).map(([base, other, same]): Pair => ({
    base: gn.directory(base),
    name: { kind: "directory", value: same ? base : other },
  })),
);

export const oddlyConstrainedChain: fc.Arbitrary<MutatedChain> = fc
  .tuple(pair, fc.constantFrom("permitted", "excluded"))
  .map(([{ base, name }, side]) => constrainedChain(base, [name], side));
