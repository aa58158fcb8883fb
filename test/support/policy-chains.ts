import fc from "fast-check";
import * as der from "../../lib/pki/der-write.ts";
import { buildName } from "../../lib/pki/name.ts";
import { OID } from "../../lib/pki/oids.ts";
import { ANY_POLICY } from "../../lib/pki/policies.ts";
import type { PolicyDemand } from "../../lib/pki/policy-graph.ts";
import { throwawayKey } from "./issuing.ts";
import { AT } from "./mutated-chains.ts";
import { rawCertificate, rawDefaults, rawExtension as ext, type RawExtension } from "./raw-certificate.ts";

/** Chains that are right in everything but, perhaps, their certificate policies. */

export interface PolicyLevel {
  readonly policies?: readonly string[] | undefined;
  readonly mappings?: readonly (readonly [string, string])[] | undefined;
  readonly requireExplicit?: number | undefined;
  readonly inhibitMapping?: number | undefined;
  readonly inhibitAny?: number | undefined;
  readonly selfIssued?: boolean | undefined;
}

const KEYS = Array.from({ length: 7 }, () => throwawayKey());

export const POLICIES = ["1.2.3.1", "1.2.3.2", "1.2.3.3"] as const;

/** @param levels from the certificate below the root to the leaf; at most 6 */
export function policyChain(levels: readonly PolicyLevel[]): { chain: Uint8Array[]; root: Uint8Array } {
  let issuer = { subject: buildName({ commonName: "Root" }), key: KEYS[0]! };
  const make = (level: PolicyLevel, i: number): Uint8Array => {
    const leaf = i === levels.length;
    const subject =
      i === 0 || level.selfIssued === true ? issuer.subject : buildName({ commonName: leaf ? "dev-1" : `CA ${i}` });
    const basics = leaf
      ? [ext.basicConstraints(false), ext.keyUsage(["digitalSignature"])]
      : [ext.basicConstraints(true), ext.keyUsage(["keyCertSign", "cRLSign"])];
    const key = KEYS[i]!;
    const extensions = [...basics, ...policyExtensions(level)];
    const raw = rawDefaults({ subject, key, issuer, extensions, serial: i + 1, at: AT });
    issuer = { subject, key };
    return rawCertificate(raw);
  };
  const [root, ...below] = [{}, ...levels].map(make);
  return { chain: below.toReversed(), root: root! };
}

function policyExtensions(level: PolicyLevel): RawExtension[] {
  const { policies, mappings, requireExplicit, inhibitMapping, inhibitAny } = level;
  const skip = (number: number, value: number | undefined): Uint8Array[] =>
    value === undefined ? [] : [der.implicit(number, Uint8Array.of(value))];
  const constraints = [...skip(0, requireExplicit), ...skip(1, inhibitMapping)];
  const pairs = (mappings ?? []).map(([from, to]) => der.sequence(der.oid(from), der.oid(to)));
  return [
    ...(policies === undefined
      ? []
      : [ext.any(OID.certificatePolicies, false, der.sequence(...policies.map((one) => der.sequence(der.oid(one)))))]),
    ...(pairs.length === 0 ? [] : [ext.any(OID.policyMappings, true, der.sequence(...pairs))]),
    ...(constraints.length === 0 ? [] : [ext.any(OID.policyConstraints, true, der.sequence(...constraints))]),
    ...(inhibitAny === undefined ? [] : [ext.any(OID.inhibitAnyPolicy, true, der.integer(inhibitAny))]),
  ];
}

const rarely = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.oneof({ weight: 3, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary });
const skips = fc.integer({ min: 0, max: 3 });
const somePolicies = fc.uniqueArray(fc.constantFrom(...POLICIES, ANY_POLICY), { minLength: 1, maxLength: 3 });

const level: fc.Arbitrary<PolicyLevel> = fc.record({
  policies: fc.oneof({ weight: 9, arbitrary: somePolicies }, { weight: 1, arbitrary: fc.constant(undefined) }),
  mappings: rarely(
    fc.uniqueArray(fc.tuple(fc.constantFrom(...POLICIES), fc.constantFrom(...POLICIES)), {
      minLength: 1,
      maxLength: 2,
      selector: (pair) => pair.join(),
    }),
  ),
  requireExplicit: rarely(skips),
  inhibitMapping: rarely(skips),
  inhibitAny: rarely(skips),
  selfIssued: fc.oneof({ weight: 5, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
});

const demand: fc.Arbitrary<PolicyDemand> = fc.record({
  acceptable: rarely(fc.uniqueArray(fc.constantFrom(...POLICIES), { minLength: 1, maxLength: 2 })),
  explicit: fc.boolean(),
  inhibitMapping: fc.boolean(),
  inhibitAny: fc.boolean(),
});

export const policyCase = fc.record({
  levels: fc
    .tuple(fc.array(level, { minLength: 0, maxLength: 4 }), level)
    .map(([cas, leaf]): PolicyLevel[] => [...cas, { policies: leaf.policies }]),
  demand,
});
