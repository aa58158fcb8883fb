import { TAG, type DerReader } from "./der.ts";
import { OID } from "./oids.ts";

type ReadExtension = <T>(oid: string, reading: (reader: DerReader) => T) => T | undefined;

const MAX_ENTRIES = 64;

/**
 * Certificate policies, as far as a validator must go that asks for none (RFC 5280 section 6.1.1: any-policy as the
 * initial set, no initial explicit policy). Then the policy tree can refuse a path only where a certificate demands an
 * explicit policy; that one we refuse outright rather than build the tree.
 * @returns why not, or undefined
 * @throws CountersignError `der-invalid`
 */
export function checkPolicyExtensions(read: ReadExtension): string | undefined {
  const unknownQualifier = read(OID.certificatePolicies, readPolicies);
  if (unknownQualifier === true) return "its policies carry qualifiers we don't process";
  const demandsExplicit = read(OID.policyConstraints, (outer) => {
    const reader = outer.enter();
    const explicit = reader.peek() === 0x80 ? reader.small(0xffff, 0x80) : undefined;
    const inhibit = reader.peek() === 0x81 ? reader.small(0xffff, 0x81) : undefined;
    reader.end();
    outer.end();
    if (explicit === undefined && inhibit === undefined) throw outer.fail("empty policy constraints");
    return explicit !== undefined;
  });
  if (demandsExplicit === true) return "it demands explicit certificate policies, which we don't process";
  read(OID.inhibitAnyPolicy, (outer) => {
    outer.small(0xffff);
    outer.end();
  });
  const mapsAny = read(OID.policyMappings, readMappings);
  return mapsAny === true ? "it maps anyPolicy" : undefined;
}

const ANY_POLICY = "2.5.29.32.0";

function readPolicies(outer: DerReader): boolean {
  const reader = outer.enter();
  outer.end();
  const seen = new Set<string>();
  let unknown = false;
  if (reader.atEnd) throw reader.fail("empty certificate policies");
  while (!reader.atEnd) {
    const policy = reader.enter();
    const oid = policy.oid();
    if (seen.has(oid) || seen.size === MAX_ENTRIES) throw policy.fail("a policy appears twice, or too many");
    seen.add(oid);
    if (policy.atEnd) continue;
    const qualifiers = policy.enter();
    policy.end();
    if (qualifiers.atEnd) throw qualifiers.fail("empty policy qualifiers");
    while (!qualifiers.atEnd) {
      const qualifier = qualifiers.enter();
      const kind = qualifier.oid();
      qualifier.read();
      qualifier.end();
      if (kind !== OID.qualifierCps && kind !== OID.qualifierUserNotice) unknown = true;
    }
  }
  return unknown;
}

function readMappings(outer: DerReader): boolean {
  const reader = outer.enter(TAG.sequence);
  outer.end();
  let mapsAny = false;
  if (reader.atEnd) throw reader.fail("empty policy mappings");
  for (let count = 0; !reader.atEnd; count++) {
    if (count === MAX_ENTRIES) throw reader.fail("too many policy mappings");
    const mapping = reader.enter();
    if (mapping.oid() === ANY_POLICY) mapsAny = true;
    if (mapping.oid() === ANY_POLICY) mapsAny = true;
    mapping.end();
  }
  return mapsAny;
}
