import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tempDir } from "../../test/support/index.ts";
import { pem } from "../../test/support/issuing.ts";
import { opensslBatch } from "../../test/support/judge.ts";
import { AT } from "../../test/support/mutated-chains.ts";
import { POLICIES, policyCase, policyChain, type PolicyLevel } from "../../test/support/policy-chains.ts";
import { validatePath } from "./path.ts";
import { ANY_POLICY } from "./policies.ts";
import type { PolicyDemand } from "./policy-graph.ts";
import { webCryptoVerify } from "./verify.ts";

const [ONE, TWO, THREE] = POLICIES;

async function outcome(levels: readonly PolicyLevel[], policies: PolicyDemand = {}): Promise<string> {
  const { chain, root } = policyChain(levels);
  const result = await validatePath({ chain, roots: [root], at: AT, policies, verify: webCryptoVerify });
  return result.ok ? `ok ${result.policies.join(" ")}`.trim() : `${result.reason}@${result.index}`;
}

const explicit = { explicit: true };

describe("certificate policies", () => {
  it.each<[string, readonly PolicyLevel[], PolicyDemand, string]>([
    ["none, and none asked for", [{}, {}], {}, "ok"],
    ["none, and some asked for", [{}, {}], explicit, "policy-not-satisfied@0"],
    ["one throughout", [{ policies: [ONE] }, { policies: [ONE, TWO] }], explicit, `ok ${ONE}`],
    ["another below", [{ policies: [ONE] }, { policies: [TWO] }], explicit, "policy-not-satisfied@0"],
    ["another below, nobody asks", [{ policies: [ONE] }, { policies: [TWO] }], {}, "ok"],
    ["a gap", [{ policies: [ONE] }, {}, { policies: [ONE] }], explicit, "policy-not-satisfied@0"],
    ["anyPolicy above one", [{ policies: [ANY_POLICY] }, { policies: [ONE] }], explicit, `ok ${ONE}`],
    ["anyPolicy below one", [{ policies: [ONE] }, { policies: [ANY_POLICY] }], explicit, `ok ${ONE}`],
    ["anyPolicy throughout", [{ policies: [ANY_POLICY] }, { policies: [ANY_POLICY] }], explicit, `ok ${ANY_POLICY}`],
    [
      "anyPolicy, inhibited by the asker",
      [{ policies: [ANY_POLICY] }, { policies: [ONE] }],
      { ...explicit, inhibitAny: true },
      "policy-not-satisfied@0",
    ],
    [
      "the one accepted",
      [{ policies: [ONE, TWO] }, { policies: [ONE, TWO] }],
      { ...explicit, acceptable: [TWO, THREE] },
      `ok ${TWO}`,
    ],
    [
      "not the one accepted",
      [{ policies: [ONE] }, { policies: [ONE] }],
      { ...explicit, acceptable: [TWO] },
      "policy-not-satisfied@0",
    ],
    [
      "anyPolicy, of which one is accepted",
      [{ policies: [ANY_POLICY] }, { policies: [ANY_POLICY] }],
      { ...explicit, acceptable: [TWO] },
      `ok ${TWO}`,
    ],
    ["a CA that demands one at once", [{ requireExplicit: 0 }, {}], {}, "policy-not-satisfied@0"],
    ["a CA that demands one three below", [{ requireExplicit: 3 }, {}, {}], {}, "ok"],
    ["a CA that demands one two below", [{ requireExplicit: 2 }, {}, {}], {}, "policy-not-satisfied@0"],
    ["a self-issued CA, which doesn't count", [{ requireExplicit: 2 }, { selfIssued: true }, {}], {}, "ok"],
    [
      "a CA that demands one and gets it",
      [{ policies: [ONE], requireExplicit: 0 }, { policies: [ONE] }],
      {},
      `ok ${ONE}`,
    ],
    ["a mapped one", [{ policies: [ONE], mappings: [[ONE, TWO]] }, { policies: [TWO] }], explicit, `ok ${ONE}`],
    [
      "the unmapped name of a mapped one",
      [{ policies: [ONE], mappings: [[ONE, TWO]] }, { policies: [ONE] }],
      explicit,
      "policy-not-satisfied@0",
    ],
    [
      "one mapped to two",
      [
        {
          policies: [ONE],
          mappings: [
            [ONE, TWO],
            [ONE, THREE],
          ],
        },
        { policies: [THREE] },
      ],
      explicit,
      `ok ${ONE}`,
    ],
    [
      "a mapping from anyPolicy",
      [{ policies: [ANY_POLICY], mappings: [[ONE, TWO]] }, { policies: [TWO] }],
      { ...explicit, acceptable: [ONE] },
      `ok ${ONE}`,
    ],
    [
      "a mapping where none is allowed",
      [{ policies: [ONE], mappings: [[ONE, TWO]] }, { policies: [TWO] }],
      { ...explicit, inhibitMapping: true },
      "policy-not-satisfied@0",
    ],
    [
      "a mapping a CA forbids",
      [{ policies: [ONE], inhibitMapping: 0 }, { policies: [ONE], mappings: [[ONE, TWO]] }, { policies: [TWO] }],
      explicit,
      "policy-not-satisfied@0",
    ],
    [
      "a mapping of anyPolicy",
      [{ policies: [ONE], mappings: [[ANY_POLICY, TWO]] }, { policies: [TWO] }],
      {},
      "policy-unsupported@1",
    ],
    [
      "a mapping to anyPolicy",
      [{ policies: [ONE], mappings: [[ONE, ANY_POLICY]] }, { policies: [TWO] }],
      {},
      "policy-unsupported@1",
    ],
    [
      "anyPolicy a CA forbids",
      [{ policies: [ONE], inhibitAny: 0 }, { policies: [ANY_POLICY] }],
      explicit,
      "policy-not-satisfied@0",
    ],
    [
      "anyPolicy in a self-issued CA below such a one",
      [{ policies: [ONE], inhibitAny: 0 }, { policies: [ANY_POLICY], selfIssued: true }, { policies: [ONE] }],
      explicit,
      `ok ${ONE}`,
    ],
    ["a leaf that demands one", [{}, { requireExplicit: 0 }], {}, "policy-unsupported@0"],
    ["a leaf that inhibits anyPolicy", [{}, { inhibitAny: 0 }], {}, "policy-unsupported@0"],
  ])("%s", async (_what, levels, demand, expected) => {
    expect(await outcome(levels, demand)).toBe(expected);
  });

  it("that would make a tree of millions of nodes are judged at once", async () => {
    const names = Array.from({ length: 60 }, (_, i) => `1.2.3.${i + 1}`);
    const cross = names.slice(0, 8).flatMap((from) => names.slice(0, 8).map((to): [string, string] => [from, to]));
    const levels = Array.from({ length: 6 }, (_, i) => ({ policies: names, ...(i < 5 ? { mappings: cross } : {}) }));
    const start = process.cpuUsage();
    expect(await outcome(levels, explicit)).toMatch(/^ok 1\.2\.3\./);
    expect(process.cpuUsage(start).user).toBeLessThan(1_000_000);
  });

  /** openssl maps from an anyPolicy that inhibitAnyPolicy has made void; by RFC 5280 section 6.1.3 d 2 there is none. */
  const mapsVoidAny = (levels: readonly PolicyLevel[], demand: PolicyDemand): boolean =>
    (demand.inhibitAny === true || levels.some(({ inhibitAny }) => inhibitAny !== undefined)) &&
    levels.some(({ policies, mappings }) => mappings !== undefined && policies?.includes(ANY_POLICY) === true);

  it("are accepted exactly where openssl accepts them", async () => {
    const seed = Number(process.env["PATH_SEED"] ?? 20261122);
    const cases = fc.sample(policyCase, { numRuns: Number(process.env["PATH_CASES"] ?? 300), seed });
    const dir = tempDir("policy");
    const made = cases.map(({ levels }) => policyChain(levels));
    const runs = made.map(({ chain, root }, i) => {
      const file = (part: string, ...ders: Uint8Array[]): string => {
        const path = join(dir, `${i}.${part}.pem`);
        writeFileSync(path, pem(...ders));
        return path;
      };
      const { demand } = cases[i]!;
      return [
        "verify",
        "-x509_strict",
        "-policy_check",
        ...(demand.acceptable ?? [ANY_POLICY]).flatMap((policy) => ["-policy", policy]),
        ...(demand.explicit === true ? ["-explicit_policy"] : []),
        ...(demand.inhibitMapping === true ? ["-inhibit_map"] : []),
        ...(demand.inhibitAny === true ? ["-inhibit_any"] : []),
        ...["-attime", String(AT.getTime() / 1000), "-CAfile", file("root", root)],
        ...["-untrusted", file("rest", ...chain.slice(1), root), file("leaf", chain[0]!)],
      ];
    });
    const verdicts = await opensslBatch(runs);
    const disputes: string[] = [];
    let good = 0;
    for (const [i, { levels, demand }] of cases.entries()) {
      const said = await outcome(levels, demand);
      if (said.startsWith("ok")) good++;
      const known = verdicts[i]!.ok && mapsVoidAny(levels, demand);
      if (said.startsWith("ok") !== verdicts[i]!.ok && !known) {
        disputes.push(`${said}: ${JSON.stringify({ levels, demand })}: ${verdicts[i]!.text}`);
      }
    }
    expect(disputes).toEqual([]);
    expect(good).toBeGreaterThan(cases.length / 5);
    expect(good).toBeLessThan((cases.length * 4) / 5);
  }, 240_000);
});
