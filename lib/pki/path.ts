import { CountersignError, isCountersignError } from "../domain/errors.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { isSignedBy } from "./algorithms.ts";
import type { Certificate } from "./certificate.ts";
import { sameName } from "./name.ts";
import { NameBudget } from "./name-constraints.ts";
import { MAX_CHAIN, readInput, type Input, type PathRequest } from "./path-input.ts";
import { checkRevocation, CrlShelf } from "./path-revocation.ts";
import { PathError, type PathFailure, type PathResult } from "./path-result.ts";
import { akiMatches, checkPath, signatureAlgorithmFault } from "./path-rules.ts";

export { MAX_CHAIN, MAX_ROOTS, type PathRequest } from "./path-input.ts";
export type { PathFailure, PathReason, PathResult } from "./path-result.ts";
export type { PathPurpose } from "./path-purpose.ts";
export type { RevocationDemand } from "./path-revocation.ts";
export type { PolicyDemand } from "./policy-graph.ts";

/** Steps of the search, each at most one signature check. Honest chains need one or two a certificate. */
const MAX_STEPS = 100;

/**
 * Path building and validation by RFC 5280 section 6, strict as `openssl verify -x509_strict`. Bounded in certificates,
 * octets, depth (10 and the root) and steps; no recursion. Every refusal of hostile input is a result with a stable reason; when no path holds,
 * the reason is that of the first complete path tried, or why none could be completed.
 * @throws CountersignError `input-invalid` when `at` is an invalid Date
 */
export async function validatePath(request: PathRequest): Promise<PathResult> {
  // NaN compares false with everything: an unusable time would make every certificate valid
  if (Number.isNaN(request.at.getTime()))
    throw new CountersignError("input-invalid", "the time to validate at is no time");
  try {
    return await search(readInput(request), request);
  } catch (error) {
    if (error instanceof PathError) return { ok: false, ...error.failure };
    throw error;
  }
}

const ISSUER_UNKNOWN: PathFailure = {
  reason: "issuer-unknown",
  index: 0,
  message: "no certificate given or trusted is its issuer",
};

/** Depth first with an explicit stack: from the leaf to issuers by name, key identifier and signature, roots first. */
async function search(input: Input, request: PathRequest): Promise<PathResult> {
  const { at, purpose = "any", revocation = "if-given", verify } = request;
  const stack: { path: readonly Certificate[]; root: boolean }[] = [{ path: [input.pool[0]!], root: false }];
  const signatures = new Map<Certificate, Map<Certificate, PathError | undefined>>();
  const demand = { at, purpose, policies: request.policies ?? {}, names: new NameBudget() };
  const crls = new CrlShelf(input.crls, verify);
  let complete: PathFailure | undefined;
  let furthest: PathFailure | undefined;
  let steps = 0;
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { path, root } = next;
    if (++steps > MAX_STEPS) {
      const limit = {
        reason: "search-limit",
        index: 0,
        message: "too many possible paths; send fewer certificates",
      } as const;
      return { ok: false, ...(complete ?? limit) };
    }
    const subject = path[path.length - 2];
    const issuer = path[path.length - 1]!;
    const fault = subject && (await signatureFault(subject, issuer, path.length - 2, signatures, verify));
    if (fault !== undefined) {
      if (furthest === undefined || fault.failure.index > furthest.index) furthest = fault.failure;
      continue;
    }
    if (!root) {
      if (path.length <= MAX_CHAIN) stack.push(...issuersOf(issuer, path, input, at));
      continue;
    }
    try {
      await checkRoot(issuer, path.length - 1, request, signatures);
      const policies = checkPath(path, demand);
      const revocationChecked = await checkRevocation(path, crls, at, revocation);
      return { ok: true, path, revocationChecked, policies };
    } catch (error) {
      complete ??= failureOf(error);
    }
  }
  return { ok: false, ...(complete ?? furthest ?? input.unreadable ?? ISSUER_UNKNOWN) };
}

/** Candidates in ascending order of promise, since the stack's last is tried first: roots, by key identifier, in time. */
function issuersOf(
  certificate: Certificate,
  path: readonly Certificate[],
  { pool, roots }: Input,
  at: Date,
): { path: readonly Certificate[]; root: boolean }[] {
  const isIssuer = (candidate: Certificate): boolean => sameName(certificate.issuer, candidate.subject);
  const promise = (one: Certificate, root: boolean): number =>
    (akiMatches(certificate, one) ? 4 : 0) + (at >= one.notBefore && at < one.notAfter ? 2 : 0) + (root ? 1 : 0);
  return [
    ...pool.filter((one) => isIssuer(one) && !path.includes(one)).map((one) => ({ one, root: false })),
    ...roots.filter(isIssuer).map((one) => ({ one, root: true })),
  ]
    .toSorted((a, b) => promise(a.one, a.root) - promise(b.one, b.root))
    .map(({ one, root }) => ({ path: [...path, one], root }));
}

async function signatureFault(
  certificate: Certificate,
  issuer: Certificate,
  index: number,
  known: Map<Certificate, Map<Certificate, PathError | undefined>>,
  verify: VerifySignature,
): Promise<PathError | undefined> {
  let byIssuer = known.get(certificate);
  if (byIssuer === undefined) known.set(certificate, (byIssuer = new Map<Certificate, PathError | undefined>()));
  if (!byIssuer.has(issuer)) byIssuer.set(issuer, await checkSignature(certificate, issuer, index, verify));
  return byIssuer.get(issuer);
}

async function checkSignature(
  certificate: Certificate,
  issuer: Certificate,
  index: number,
  verify: VerifySignature,
): Promise<PathError | undefined> {
  const fault = signatureAlgorithmFault(certificate, issuer);
  if (fault !== undefined) return new PathError("signature-algorithm-unsupported", index, fault);
  const good = await isSignedBy(certificate, issuer.spki, verify);
  return good ? undefined : new PathError("signature-invalid", index, "its signature isn't its issuer's");
}

/** A root is trusted by its bytes, and yet must be what it says: self-issued and signed by itself. */
async function checkRoot(
  root: Certificate,
  index: number,
  { partialChain = false, verify }: PathRequest,
  signatures: Map<Certificate, Map<Certificate, PathError | undefined>>,
): Promise<void> {
  if (!root.selfIssued) {
    if (partialChain) return;
    throw new PathError("root-not-self-issued", index, "a trusted root must be self-issued");
  }
  const fault = await signatureFault(root, root, index, signatures, verify);
  if (fault !== undefined) throw fault;
}

function failureOf(error: unknown): PathFailure {
  if (error instanceof PathError) return error.failure;
  if (isCountersignError(error)) return { reason: "certificate-malformed", index: 0, message: error.message };
  throw error;
}
