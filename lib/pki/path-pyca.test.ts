import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { nodeVerify } from "../../hsm/verify.ts";
import {
  AT,
  BASES,
  constrainedChain,
  mutatedChain,
  NAMES,
  type MutatedChain,
} from "../../test/support/mutated-chains.ts";
import { pythonJudge } from "../../test/support/python.ts";
import { oddlyConstrainedChain } from "../../test/support/odd-names.ts";
import { resignedChain } from "../../test/support/resigned-chains.ts";
import { toBase64 } from "../domain/bytes.ts";
import { parseCertificate } from "./certificate.ts";
import { validatePath } from "./path.ts";
import { keyAlgorithmOf } from "./spki.ts";

/** Where pyca cryptography refuses and we don't, each checked for what it names. */
const NARROWER: readonly { what: RegExp; only: (one: MutatedChain) => boolean; why: string }[] = [
  {
    what: /Forbidden (public key|signature) algorithm/,
    only: ({ chain, root }) => [...chain, root].some(isEd25519),
    why: "It knows no Ed25519.",
  },
  {
    what: /no interior errors/,
    only: ({ story }) => /issuer name in other case|of another tag/.test(story),
    why: "It compares names by their octets, not by RFC 5280 section 7.1.",
  },
  {
    what: /2\.5\.29\.(32|54).*unaccounted-for critical/,
    only: ({ story }) => /policies|inhibitAnyPolicy/.test(story),
    why: "It doesn't process policies.",
  },
  {
    what: /2\.5\.29\.37.*incorrect criticality/,
    only: ({ story }) => story.includes("extKeyUsage"),
    why: "RFC 5280 section 4.2.1.12 lets a CA's extended key usage be critical.",
  },
  {
    what: /unsupported (directoryName|name) constraint|unsupported name constraint|malformed DNS name constraint: $/,
    only: () => true,
    why: "It compares neither directory names nor URIs, and knows no DNS constraint on every name.",
  },
];

function isEd25519(der: Uint8Array): boolean {
  try {
    return keyAlgorithmOf(parseCertificate(der).spki) === "ed25519";
  } catch {
    return false;
  }
}

type Verdict = { ok: boolean; why?: string };

function judge(cases: readonly Pick<MutatedChain, "chain" | "root">[]): Verdict[] {
  const at = AT.getTime() / 1000;
  return pythonJudge<object, Verdict>(
    "paths.py",
    cases.map(({ chain, root }) => ({ chain: chain.map(toBase64), root: toBase64(root), at })),
  );
}

async function compare(cases: readonly MutatedChain[]): Promise<{ both: number; neither: number }> {
  const verdicts = judge(cases);
  const disputed: MutatedChain[] = [];
  const tally = { both: 0, neither: 0 };
  for (const [i, one] of cases.entries()) {
    const { chain, root } = one;
    const request = { chain, roots: [root], at: AT, purpose: "clientAuth", verify: nodeVerify } as const;
    const result = await validatePath(request);
    const theirs = verdicts[i]!.ok;
    // Of many candidates it names only the last one's fault: the path that we found is put before it alone
    if (result.ok && !theirs) disputed.push({ ...one, chain: result.path.slice(0, -1).map((each) => each.der) });
    if (result.ok && theirs) tally.both++;
    if (!result.ok && !theirs) tally.neither++;
  }
  const again = judge(disputed);
  const wrong = disputed.flatMap((one, i) => {
    const { ok, why = "" } = again[i]!;
    return ok || NARROWER.some(({ what, only }) => what.test(why) && only(one)) ? [] : [`${one.story}: ${why}`];
  });
  expect(wrong).toEqual([]);
  return tally;
}

describe("validatePath against pyca cryptography", () => {
  it("never accepts what it refuses, over thousands of spoiled chains", async () => {
    const seed = Number(process.env["PATH_SEED"] ?? 20261122);
    const cases = fc.sample(mutatedChain, { numRuns: Number(process.env["PATH_CASES"] ?? 2000), seed });
    const { both, neither } = await compare(cases);
    // A comparison that refuses everything, or spoils nothing, would show nothing
    expect(both).toBeGreaterThan(cases.length / 8);
    expect(neither).toBeGreaterThan(cases.length / 4);
  }, 500_000);

  it("never accepts what it refuses, over thousands of chains broken and signed again", async () => {
    const seed = Number(process.env["PATH_SEED"] ?? 20261122);
    // It doesn't process policies, nor directory names in constraints: the rich ones it refuses all
    const plain = resignedChain.filter(({ story }) => story.startsWith("plain"));
    const cases = fc.sample(plain, { numRuns: Number(process.env["PATH_CASES"] ?? 2000), seed });
    const { both, neither } = await compare(cases);
    expect(both).toBeGreaterThan(cases.length / 12);
    expect(neither).toBeGreaterThan(cases.length / 4);
  }, 500_000);

  it("never accepts an odd name under an odd constraint that it refuses", async () => {
    const seed = Number(process.env["PATH_SEED"] ?? 20261122);
    const cases = fc.sample(oddlyConstrainedChain, { numRuns: Number(process.env["PATH_CASES"] ?? 1000), seed });
    const { both, neither } = await compare(cases);
    expect(both).toBeGreaterThan(cases.length / 50);
    expect(neither).toBeGreaterThan(cases.length / 4);
  }, 500_000);

  it("never accepts a name that it finds constrained, over every pair of constraint and names", async () => {
    const cases = BASES.flatMap((base) =>
      NAMES.flatMap((names) => (["permitted", "excluded"] as const).map((side) => constrainedChain(base, names, side))),
    );
    const { both, neither } = await compare(cases);
    expect(both).toBeGreaterThan(cases.length / 4);
    expect(neither).toBeGreaterThan(cases.length / 8);
  }, 240_000);
});
