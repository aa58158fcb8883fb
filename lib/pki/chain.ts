import { CountersignError } from "../domain/errors.ts";
import { parseCertificate, type Certificate } from "./certificate.ts";
import { sameName } from "./name.ts";
import { akiMatches } from "./path-rules.ts";
import { MAX_CHAIN } from "./path.ts";
import { pemEncode } from "./pem.ts";

/**
 * Puts a bag of certificates of one chain in order, leaf first, by names and key identifiers only: an ordering, not a
 * validation.
 * @throws CountersignError `certificate-invalid` when they aren't exactly one chain
 */
export function orderChain(bag: readonly (Uint8Array | Certificate)[]): Certificate[] {
  if (bag.length === 0 || bag.length > MAX_CHAIN) throw invalid(`a chain has 1 to ${MAX_CHAIN} certificates`);
  const left = bag.map((one) => (one instanceof Uint8Array ? parseCertificate(one) : one));
  const issues = (a: Certificate, b: Certificate): boolean =>
    a !== b && sameName(a.subject, b.issuer) && akiMatches(b, a);
  const leaves = left.filter((one) => !left.some((other) => issues(one, other)));
  if (leaves.length !== 1) throw invalid(`found ${leaves.length} leaves where one belongs`);
  const chain: Certificate[] = [];
  for (let next: Certificate | undefined = leaves[0]; next !== undefined;) {
    chain.push(next);
    left.splice(left.indexOf(next), 1);
    const current: Certificate = next;
    next = left.find((candidate) => issues(candidate, current));
  }
  if (left.length > 0) throw invalid("some certificates don't belong to the leaf's chain");
  return chain;
}

/** PEM of a chain in its given order, leaf first, without a root at its end: the verifier brings that. */
export function chainPem(chain: readonly (Uint8Array | Certificate)[]): string {
  const parsed = chain.map((one) => (one instanceof Uint8Array ? parseCertificate(one) : one));
  const kept = parsed.at(-1)?.selfIssued === true ? parsed.slice(0, -1) : parsed;
  return kept.map((certificate) => pemEncode("CERTIFICATE", certificate.der)).join("");
}

function invalid(message: string): CountersignError {
  return new CountersignError("certificate-invalid", `not a chain: ${message}`, { details: { rule: "chain" } });
}
