import { equalBytes } from "../domain/bytes.ts";
import { isCountersignError } from "../domain/errors.ts";
import { algorithmFor } from "./algorithms.ts";
import type { Certificate } from "./certificate.ts";
import { constraintFault, type NameBudget } from "./name-constraints.ts";
import { alternativeNameFault, nameFault } from "./name-form.ts";
import { sameName } from "./name.ts";
import { OID } from "./oids.ts";
import { checkPurpose, type PathPurpose } from "./path-purpose.ts";
import { PathError } from "./path-result.ts";
import { readPolicyExtensions } from "./policies.ts";
import { pathPolicies, type PolicyDemand } from "./policy-graph.ts";
import { keyAlgorithmOf } from "./spki.ts";

/** Extensions that are processed here; any other critical one refuses the path (RFC 5280 section 4.2). */
const PROCESSED = new Set<string>([
  OID.basicConstraints,
  OID.keyUsage,
  OID.extKeyUsage,
  OID.subjectAltName,
  OID.nameConstraints,
  OID.cRLDistributionPoints,
  OID.certificatePolicies,
  OID.policyMappings,
  OID.policyConstraints,
  OID.inhibitAnyPolicy,
]);

export interface PathDemand {
  readonly at: Date;
  readonly purpose: PathPurpose;
  readonly policies: PolicyDemand;
  /** Of the whole validation, not of one path */
  readonly names: NameBudget;
}

/**
 * RFC 5280 section 6.1 over a complete path, leaf first, root last, signatures aside: those were checked as the path
 * was found. The root is held to the same rules as any CA. Beyond the RFC it demands what `openssl verify
 * -x509_strict` does: critical basicConstraints, keyUsage in CAs, key identifiers.
 * @returns the certificate policies that hold for the path
 * @throws PathError
 */
export function checkPath(path: readonly Certificate[], { at, purpose, policies, names }: PathDemand): string[] {
  const seconds = Math.floor(at.getTime() / 1000) * 1000;
  for (let i = path.length - 1; i >= 0; i--) {
    const certificate = path[i]!;
    checkTime(certificate, seconds, i);
    checkKey(certificate, i);
    checkForm(certificate, i);
    checkIdentifiers(certificate, path[i + 1], i);
    checkCriticality(certificate, i);
    if (i > 0) checkCa(certificate, i);
  }
  checkPathLength(path);
  checkNameConstraints(path, names);
  checkPurpose(path, purpose);
  return checkPolicies(path, policies);
}

function checkTime({ notBefore, notAfter }: Certificate, seconds: number, i: number): void {
  if (seconds < notBefore.getTime())
    throw new PathError("not-yet-valid", i, `valid from ${notBefore.toISOString()} on`);
  // RFC 5280 counts the last second in; openssl doesn't, and the two must not differ towards acceptance
  if (seconds >= notAfter.getTime()) throw new PathError("expired", i, `expired at ${notAfter.toISOString()}`);
}

function checkKey({ spki }: Certificate, i: number): void {
  try {
    keyAlgorithmOf(spki);
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    throw new PathError(error.code === "key-weak" ? "key-weak" : "key-unsupported", i, error.message);
  }
}

/** Why the issuer's key can't have made a signature of the certificate's algorithm, or undefined. */
export function signatureAlgorithmFault({ signatureScheme }: Certificate, issuer: Certificate): string | undefined {
  if (signatureScheme === undefined) return "signed with an algorithm we don't take";
  try {
    const fits = algorithmFor(signatureScheme, keyAlgorithmOf(issuer.spki)) !== undefined;
    return fits ? undefined : "its signature algorithm isn't one of its issuer's key";
  } catch {
    return "its issuer's key is not one we take";
  }
}

function checkForm(certificate: Certificate, i: number): void {
  const { issuer, subject, basicConstraints, keyUsage, san } = certificate;
  const ca = basicConstraints?.ca === true;
  if (issuer.rdns.length === 0) throw new PathError("name-empty", i, "its issuer's name is empty");
  if (subject.rdns.length === 0) {
    if (ca || san === undefined) throw new PathError("name-empty", i, "it has no name");
    if (!isCritical(certificate, OID.subjectAltName)) {
      throw new PathError("name-empty", i, "it has no subject, so its alternative names must be critical");
    }
  }
  const signsCertificates = keyUsage?.includes("keyCertSign") === true;
  if (ca) {
    if (!isCritical(certificate, OID.basicConstraints)) {
      throw new PathError("basic-constraints", i, "a CA's basicConstraints must be critical");
    }
    if (keyUsage === undefined) throw new PathError("key-usage", i, "a CA must have a key usage");
  } else if (signsCertificates) {
    throw new PathError("key-usage", i, "keyCertSign in a certificate that is no CA's");
  }
  if (basicConstraints?.pathLen !== undefined && !(ca && signsCertificates)) {
    throw new PathError("basic-constraints", i, "a path length without cA and keyCertSign");
  }
  const fault = nameFault(issuer) ?? nameFault(subject) ?? firstFault(san);
  if (fault !== undefined) throw new PathError("certificate-malformed", i, fault);
  if (keyUsage?.length === 0) throw new PathError("key-usage", i, "its key usage is empty");
}

function firstFault(names: Certificate["san"]): string | undefined {
  for (const name of names ?? []) {
    const fault = alternativeNameFault(name);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

function checkCa({ basicConstraints, keyUsage }: Certificate, i: number): void {
  if (basicConstraints?.ca !== true) throw new PathError("not-a-ca", i, "it issues certificates and is no CA");
  if (keyUsage?.includes("keyCertSign") !== true) throw new PathError("key-usage", i, "it issues without keyCertSign");
}

/** @param issuer the next certificate of the path; undefined for the root */
function checkIdentifiers(certificate: Certificate, issuer: Certificate | undefined, i: number): void {
  const { aki, ski, basicConstraints } = certificate;
  if (basicConstraints?.ca === true && ski === undefined) {
    throw new PathError("key-identifier-missing", i, "a CA must have a subject key identifier");
  }
  // Only a root may be without, and then wholly (RFC 5280 section 4.2.1.1)
  if (aki?.keyIdentifier === undefined && (issuer !== undefined || aki !== undefined)) {
    throw new PathError("key-identifier-missing", i, "it has no authority key identifier");
  }
  // A trusted intermediate (partial chain) has its issuer out of sight; any other root is its own
  const above = issuer ?? (certificate.selfIssued ? certificate : undefined);
  if (above !== undefined && !akiMatches(certificate, above)) {
    throw new PathError("key-identifier-mismatch", i, "its authority key identifier isn't its issuer's");
  }
}

export function akiMatches({ aki }: Certificate, issuer: Certificate): boolean {
  if (aki === undefined) return true;
  const { keyIdentifier, certIssuer, certSerial } = aki;
  if (keyIdentifier !== undefined && issuer.ski !== undefined && !equalBytes(keyIdentifier, issuer.ski)) return false;
  if (certSerial !== undefined && certSerial !== issuer.serial) return false;
  if (certIssuer === undefined) return true;
  return certIssuer.some((name) => name.kind === "directory" && sameName(name.value, issuer.issuer));
}

function checkCriticality(certificate: Certificate, i: number): void {
  for (const { oid, critical } of certificate.extensions) {
    if (critical && (oid === OID.authorityKeyIdentifier || oid === OID.subjectKeyIdentifier)) {
      throw new PathError("extension-critical", i, `extension ${oid} must not be critical`);
    }
    if (critical && !PROCESSED.has(oid)) {
      throw new PathError("extension-unknown", i, `it has the critical extension ${oid}, which we don't process`);
    }
  }
  if (certificate.nameConstraints !== undefined && certificate.basicConstraints?.ca !== true) {
    throw new PathError("basic-constraints", i, "name constraints in a certificate that is no CA's");
  }
  // Enforced either way, but a CA that doesn't insist leaves others free not to (RFC 5280 section 4.2.1.10)
  if (certificate.nameConstraints !== undefined && !isCritical(certificate, OID.nameConstraints)) {
    throw new PathError("extension-critical", i, "name constraints must be critical");
  }
}

/** RFC 5280 section 6.1.4 l, m: self-issued intermediates don't count, nor does the leaf. */
function checkPathLength(path: readonly Certificate[]): void {
  let left = Number.POSITIVE_INFINITY;
  for (let i = path.length - 1; i > 0; i--) {
    const { selfIssued, basicConstraints } = path[i]!;
    if (i < path.length - 1 && !selfIssued && left-- <= 0) {
      throw new PathError("path-length-exceeded", i, "a CA above it allows no further CA here (pathLenConstraint)");
    }
    left = Math.min(left, basicConstraints?.pathLen ?? left);
  }
}

/** RFC 5280 section 6.1.3 b, c: self-issued intermediates are exempt, a self-issued leaf is not. */
function checkNameConstraints(path: readonly Certificate[], budget: NameBudget): void {
  for (let i = 0; i < path.length; i++) {
    if (i > 0 && path[i]!.selfIssued) continue;
    for (let j = i + 1; j < path.length; j++) {
      const constraints = path[j]!.nameConstraints;
      if (constraints === undefined) continue;
      if (!budget.spend(constraints, path[i]!)) {
        throw new PathError("search-limit", i, "more names and name constraints than anyone needs");
      }
      const fault = constraintFault(constraints, path[i]!, i === 0);
      if (fault !== undefined) throw new PathError(fault.reason, i, fault.message);
    }
  }
}

/** RFC 5280 section 6.1.3 d to f and what follows from them. */
function checkPolicies(path: readonly Certificate[], demand: PolicyDemand): string[] {
  const [anchor, ...below] = path
    .map((certificate, i) => {
      const extensions = readPolicyExtensions(certificate);
      if (typeof extensions === "string") throw new PathError("policy-unsupported", i, extensions);
      return { ...extensions, selfIssued: certificate.selfIssued };
    })
    .toReversed();
  const policies = pathPolicies(anchor!, below, demand);
  if (policies !== undefined) return policies;
  throw new PathError("policy-not-satisfied", 0, "a certificate policy must hold for the whole path, and none does");
}

function isCritical(certificate: Certificate, oid: string): boolean {
  return certificate.extensions.some((extension) => extension.oid === oid && extension.critical);
}
