import { concatBytes, utf8 } from "../../domain/bytes.ts";
import type { Certificate } from "../../pki/certificate.ts";
import { pemEncode } from "../../pki/pem.ts";

/** How a chain can lie in an image. */
export const CHAIN_ENCODINGS = ["pem-nul", "pem", "der"] as const;
export type ChainEncoding = (typeof CHAIN_ENCODINGS)[number];

/** One device's issuers are another's: their text is made once. */
const texts = new WeakMap<Certificate, string>();

function textOf(issuer: Certificate): string {
  let text = texts.get(issuer);
  if (text === undefined) texts.set(issuer, (text = pemEncode("CERTIFICATE", issuer.der)));
  return text;
}

/**
 * The bytes that an injected chain must have: everything but the root.
 * @param issuers the leaf's issuer first, the root last
 */
export function chainIn(encoding: ChainEncoding, leaf: Certificate, issuers: readonly Certificate[]): Uint8Array {
  const between = issuers.slice(0, -1);
  if (encoding === "der") return concatBytes(leaf.der, ...between.map((c) => c.der));
  const pem = pemEncode("CERTIFICATE", leaf.der) + between.map(textOf).join("");
  return utf8(encoding === "pem" ? pem : `${pem}\0`);
}
