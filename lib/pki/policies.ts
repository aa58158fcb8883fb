import type { Certificate } from "./certificate.ts";
import { DerReader, TAG } from "./der.ts";
import { OID } from "./oids.ts";

export const ANY_POLICY = "2.5.29.32.0";

/** What a certificate says about policies (RFC 5280 sections 4.2.1.4, 4.2.1.5, 4.2.1.11, 4.2.1.14). */
export interface PolicyExtensions {
  /** Policy OIDs; undefined without the extension */
  readonly policies: ReadonlySet<string> | undefined;
  /** Issuer's policy to the subject's that it maps to; undefined without the extension */
  readonly mappings: ReadonlyMap<string, ReadonlySet<string>> | undefined;
  readonly requireExplicit: number | undefined;
  readonly inhibitMapping: number | undefined;
  readonly inhibitAny: number | undefined;
}

/** In one extension. With 10 certificates a path, bounds the policy graph to some thousand nodes. */
const MAX_ENTRIES = 64;
/** Above any path's length, so as good as no limit */
const MAX_SKIP = 0xffff;

const QUALIFIER_TAGS: Record<string, number> = {
  [OID.qualifierCps]: TAG.ia5String,
  [OID.qualifierUserNotice]: TAG.sequence,
};

/**
 * @returns the extensions, or why the certificate can't be judged
 * @throws CountersignError `der-invalid`
 */
export function readPolicyExtensions(certificate: Certificate): PolicyExtensions | string {
  let notCritical = false;
  const read = <T>(oid: string, mustBeCritical: boolean, reading: (reader: DerReader) => T): T | undefined => {
    const found = certificate.extensions.find((extension) => extension.oid === oid);
    if (found === undefined) return undefined;
    if (mustBeCritical && !found.critical) notCritical = true;
    const reader = new DerReader(found.value, found.offset);
    const value = reading(reader);
    reader.end();
    return value;
  };
  const policies = read(OID.certificatePolicies, false, readPolicies);
  const mappings = read(OID.policyMappings, false, readMappings);
  const constraints = read(OID.policyConstraints, true, readConstraints);
  const inhibitAny = read(OID.inhibitAnyPolicy, true, (reader) => reader.small(MAX_SKIP));
  if (notCritical) return "its policyConstraints or inhibitAnyPolicy isn't critical, as it must be";
  if (policies === "unknown-qualifier") return "its policies carry qualifiers we don't process";
  if (mappings === "any") return "it maps anyPolicy";
  if (certificate.basicConstraints?.ca !== true && (mappings ?? constraints ?? inhibitAny) !== undefined) {
    return "it isn't a CA and rules over policies";
  }
  return {
    policies,
    mappings,
    requireExplicit: constraints?.requireExplicit,
    inhibitMapping: constraints?.inhibitMapping,
    inhibitAny,
  };
}

function readPolicies(outer: DerReader): Set<string> | "unknown-qualifier" {
  const reader = outer.enter();
  const policies = new Set<string>();
  let unknown = false;
  if (reader.atEnd) throw reader.fail("empty certificate policies");
  while (!reader.atEnd) {
    const policy = reader.enter();
    const oid = policy.oid();
    if (policies.has(oid) || policies.size === MAX_ENTRIES) throw policy.fail("a policy appears twice, or too many");
    policies.add(oid);
    if (policy.atEnd) continue;
    const qualifiers = policy.enter();
    policy.end();
    if (qualifiers.atEnd) throw qualifiers.fail("empty policy qualifiers");
    while (!qualifiers.atEnd) {
      const qualifier = qualifiers.enter();
      const kind = qualifier.oid();
      // CPSuri or UserNotice; of others any one value
      qualifier.read(QUALIFIER_TAGS[kind]);
      qualifier.end();
      if (kind !== OID.qualifierCps && kind !== OID.qualifierUserNotice) unknown = true;
    }
  }
  return unknown ? "unknown-qualifier" : policies;
}

function readConstraints(outer: DerReader): Pick<PolicyExtensions, "requireExplicit" | "inhibitMapping"> {
  const reader = outer.enter();
  const requireExplicit = reader.peek() === 0x80 ? reader.small(MAX_SKIP, 0x80) : undefined;
  const inhibitMapping = reader.peek() === 0x81 ? reader.small(MAX_SKIP, 0x81) : undefined;
  reader.end();
  if (requireExplicit === undefined && inhibitMapping === undefined) throw outer.fail("empty policy constraints");
  return { requireExplicit, inhibitMapping };
}

function readMappings(outer: DerReader): Map<string, Set<string>> | "any" {
  const reader = outer.enter(TAG.sequence);
  const mappings = new Map<string, Set<string>>();
  let any = false;
  if (reader.atEnd) throw reader.fail("empty policy mappings");
  for (let count = 0; !reader.atEnd; count++) {
    if (count === MAX_ENTRIES) throw reader.fail("too many policy mappings");
    const mapping = reader.enter();
    const from = mapping.oid();
    const to = mapping.oid();
    mapping.end();
    if (from === ANY_POLICY || to === ANY_POLICY) any = true;
    mappings.set(from, (mappings.get(from) ?? new Set<string>()).add(to));
  }
  return any ? "any" : mappings;
}
