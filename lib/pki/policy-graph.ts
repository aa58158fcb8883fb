import { ANY_POLICY, type PolicyExtensions } from "./policies.ts";

/** What a relying party asks of policies (RFC 5280 section 6.1.1 c, e, f, g). */
export interface PolicyDemand {
  /** user-initial-policy-set, OIDs; default: any policy will do */
  readonly acceptable?: readonly string[] | undefined;
  /** Some acceptable policy must hold for the whole path. Default false. */
  readonly explicit?: boolean | undefined;
  readonly inhibitMapping?: boolean | undefined;
  readonly inhibitAny?: boolean | undefined;
}

export interface PolicyCertificate extends PolicyExtensions {
  readonly selfIssued: boolean;
}

interface Node {
  readonly policy: string;
  /** What the next certificate may call this policy */
  expected: ReadonlySet<string>;
  readonly parents: readonly Node[];
}

/** The nodes of one depth, by policy. */
type Level = Map<string, Node>;

/**
 * Certificate policies over a path by RFC 5280 section 6.1 with RFC 9618's graph in place of the tree, which hostile
 * certificates make exponential: here every depth has one node a policy. Childless nodes stay where they are; the graph
 * is empty exactly when its last depth is, and what counts in the end is looked up from there.
 * @param anchor the trust anchor's own; its counters bind, its policies and mappings don't
 * @param path from the certificate below the trust anchor to the leaf
 * @returns the policies that hold for the path (`anyPolicy`'s OID: all), or undefined when one must and none does
 */
export function pathPolicies(
  anchor: PolicyExtensions,
  path: readonly PolicyCertificate[],
  demand: PolicyDemand,
): string[] | undefined {
  const far = path.length + 1;
  let explicit = Math.min(demand.explicit === true ? 0 : far, anchor.requireExplicit ?? far);
  let mapping = Math.min(demand.inhibitMapping === true ? 0 : far, anchor.inhibitMapping ?? far);
  let any = Math.min(demand.inhibitAny === true ? 0 : far, anchor.inhibitAny ?? far);
  let level: Level = new Map([[ANY_POLICY, { policy: ANY_POLICY, expected: new Set([ANY_POLICY]), parents: [] }]]);

  for (const [i, certificate] of path.entries()) {
    const last = i === path.length - 1;
    const { selfIssued } = certificate;
    const anyAllowed = any > 0 || (!last && selfIssued);
    level = certificate.policies === undefined ? new Map() : nextLevel(level, certificate.policies, anyAllowed);
    if (explicit === 0 && level.size === 0) return undefined;
    if (last) {
      // Section 6.1.5 a and b
      if (explicit > 0) explicit--;
      if (certificate.requireExplicit === 0) explicit = 0;
      break;
    }
    if (certificate.mappings !== undefined) applyMappings(level, certificate.mappings, mapping > 0);
    if (!selfIssued) {
      explicit = Math.max(0, explicit - 1);
      mapping = Math.max(0, mapping - 1);
      any = Math.max(0, any - 1);
    }
    explicit = Math.min(explicit, certificate.requireExplicit ?? explicit);
    mapping = Math.min(mapping, certificate.inhibitMapping ?? mapping);
    any = Math.min(any, certificate.inhibitAny ?? any);
  }
  const held = userConstrained(authorityConstrained(level), demand.acceptable);
  return explicit === 0 && held.length === 0 ? undefined : held;
}

/** Section 6.1.3 d. */
function nextLevel(above: Level, policies: ReadonlySet<string>, anyAllowed: boolean): Level {
  const expecting = new Map<string, Node[]>();
  for (const node of above.values()) {
    for (const policy of node.expected) expecting.set(policy, [...(expecting.get(policy) ?? []), node]);
  }
  const level: Level = new Map();
  const add = (policy: string, parents: readonly Node[]): void => {
    level.set(policy, { policy, expected: new Set([policy]), parents });
  };
  const anyAbove = above.get(ANY_POLICY);
  for (const policy of policies) {
    if (policy === ANY_POLICY) continue;
    const parents = expecting.get(policy) ?? (anyAbove && [anyAbove]);
    if (parents !== undefined) add(policy, parents);
  }
  if (policies.has(ANY_POLICY) && anyAllowed) {
    for (const [policy, parents] of expecting) if (!level.has(policy)) add(policy, parents);
  }
  return level;
}

/** Section 6.1.4 b. */
function applyMappings(
  level: Level,
  mappings: ReadonlyMap<string, ReadonlySet<string>>,
  mappingAllowed: boolean,
): void {
  const any = level.get(ANY_POLICY);
  for (const [policy, subjectPolicies] of mappings) {
    const node = level.get(policy);
    if (!mappingAllowed) {
      level.delete(policy);
    } else if (node !== undefined) {
      node.expected = subjectPolicies;
    } else if (any !== undefined) {
      level.set(policy, { policy, expected: subjectPolicies, parents: any.parents });
    }
  }
}

/** Section 6.1.5 g (RFC 9618): the issuers' names for what still holds at the end, each where it left anyPolicy. */
function authorityConstrained(level: Level): Set<string> {
  const found = new Set<string>(level.has(ANY_POLICY) ? [ANY_POLICY] : []);
  const seen = new Set<Node>();
  const waiting = [...level.values()];
  for (let node = waiting.pop(); node !== undefined; node = waiting.pop()) {
    if (seen.has(node) || node.policy === ANY_POLICY) continue;
    seen.add(node);
    for (const parent of node.parents) {
      if (parent.policy === ANY_POLICY) found.add(node.policy);
      else waiting.push(parent);
    }
  }
  return found;
}

function userConstrained(authority: ReadonlySet<string>, acceptable: readonly string[] | undefined): string[] {
  if (acceptable === undefined || acceptable.includes(ANY_POLICY)) return [...authority].toSorted();
  return [...new Set(acceptable)].filter((one) => authority.has(one) || authority.has(ANY_POLICY)).toSorted();
}
