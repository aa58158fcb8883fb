import { equalBytes } from "../domain/bytes.ts";
import { isCountersignError } from "../domain/errors.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { parseCertificate, type Certificate } from "./certificate.ts";
import { parseCrl, type Crl } from "./crl-parse.ts";
import { PathError, type PathFailure, type PathReason } from "./path-result.ts";
import type { PathPurpose } from "./path-purpose.ts";
import type { RevocationDemand } from "./path-revocation.ts";
import type { PolicyDemand } from "./policy-graph.ts";

/** Certificates of a path below its root */
export const MAX_CHAIN = 10;
/** Certificates among which a path is looked for */
export const MAX_BAG = 64;
export const MAX_ROOTS = 256;
const MAX_CRLS = 64;

export interface PathRequest {
  /** The leaf first, then at most 63 more in any order; DER or parsed. What isn't needed or can't be read does no harm. */
  readonly chain: readonly (Uint8Array | Certificate)[];
  /** Trusted, self-issued CA certificates */
  readonly roots: readonly (Uint8Array | Certificate)[];
  readonly at: Date;
  /** Complete CRLs of any of the CAs; default none */
  readonly crls?: readonly (Uint8Array | Crl)[] | undefined;
  /** Default `if-given` */
  readonly revocation?: RevocationDemand | undefined;
  /** Default `any` */
  readonly purpose?: PathPurpose | undefined;
  /** Default: no policy is asked for, though a CA may demand one */
  readonly policies?: PolicyDemand | undefined;
  /** Trust roots that aren't self-issued, such as an intermediate by itself. Default false. */
  readonly partialChain?: boolean | undefined;
  readonly verify: VerifySignature;
}

export interface Input {
  readonly pool: readonly [leaf: Certificate, ...others: Certificate[]];
  readonly roots: readonly Certificate[];
  readonly crls: readonly Crl[];
  /** The first certificate that can't be read: no part of any path, but perhaps why there is none */
  readonly unreadable: PathFailure | undefined;
}

/**
 * What a validation works on. Certificates beside the leaf that can't be read are left out. Every CRL must be readable:
 * one that isn't may hide a revocation.
 * @throws PathError
 */
export function readInput({ chain, roots, crls = [] }: PathRequest): Input {
  if (chain.length === 0) throw new PathError("chain-empty", 0, "the chain holds no certificate");
  if (chain.length > MAX_BAG) {
    throw new PathError("chain-too-long", MAX_BAG, `more than ${MAX_BAG} certificates were given`);
  }
  if (roots.length === 0) throw new PathError("roots-missing", 0, "no root is trusted");
  if (roots.length > MAX_ROOTS) throw new PathError("roots-missing", 0, `more than ${MAX_ROOTS} roots`);
  if (crls.length > MAX_CRLS) throw new PathError("crl-malformed", 0, `more than ${MAX_CRLS} CRLs`);
  let unreadable: PathFailure | undefined;
  const readable = (one: Uint8Array | Certificate, index: number, what: string): Certificate[] => {
    try {
      return [read(one, index, parseCertificate, "certificate-malformed", what)];
    } catch (error) {
      if (!(error instanceof PathError)) throw error;
      unreadable ??= error.failure;
      return [];
    }
  };
  const leaf = read(chain[0]!, 0, parseCertificate, "certificate-malformed", "certificate");
  const others = chain.slice(1).flatMap((one, i) => readable(one, i + 1, "certificate"));
  const parsedRoots = roots.flatMap((one, i) => readable(one, i, "root"));
  const parsedCrls = crls.map((one, i) => read(one, i, parseCrl, "crl-malformed", "CRL"));
  const isRoot = (certificate: Certificate): boolean =>
    parsedRoots.some((root) => equalBytes(root.der, certificate.der));
  if (isRoot(leaf)) {
    throw new PathError("leaf-is-root", 0, "the first certificate is a trusted root itself: put the leaf first");
  }
  const pool: [Certificate, ...Certificate[]] = [leaf];
  for (const one of others) {
    if (!isRoot(one) && !pool.some((known) => equalBytes(known.der, one.der))) pool.push(one);
  }
  return { pool, roots: parsedRoots, crls: parsedCrls, unreadable };
}

function read<T>(
  input: Uint8Array | T,
  index: number,
  parse: (der: Uint8Array) => T,
  reason: PathReason,
  what: string,
): T {
  if (!(input instanceof Uint8Array)) return input;
  try {
    return parse(input);
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    const rule = error.details["rule"];
    const exact: PathReason =
      rule === "algorithm-mismatch"
        ? "signature-algorithm-mismatch"
        : rule === "duplicate-extension"
          ? "extension-duplicate"
          : reason;
    throw new PathError(exact, index, `${what} ${index} can't be read: ${error.message}`);
  }
}
