import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tempDir } from "../../test/support/index.ts";
import { pem } from "../../test/support/issuing.ts";
import { opensslBatch } from "../../test/support/judge.ts";
import { AT, mutatedChain } from "../../test/support/mutated-chains.ts";
import { validatePath } from "./path.ts";
import { webCryptoVerify } from "./verify.ts";

/**
 * Where openssl accepts and we don't, on purpose. Each is stricter than RFC 5280 asks of a validator, none laxer.
 */
const STRICTER = new Set([
  "extension-duplicate", // openssl looks only at those it knows
  "certificate-malformed", // serial number of zero, negative or above 20 octets; version 1
  "root-not-self-issued",
  "extended-key-usage", // purposes nest even when no purpose is asked for
  "key-usage",
  "name-constraint-unsupported", // names or constraints too odd to compare
  "name-constraint-violated", // wildcards, and DNS constraints with a leading dot
  "policy-unsupported", // openssl ignores policies unless asked
  "basic-constraints",
  "signature-invalid", // the root's own signature
]);

describe("validatePath against openssl verify -x509_strict", () => {
  const dir = tempDir("path");
  const PURPOSES = [
    { purpose: "any", args: [] },
    { purpose: "clientAuth", args: ["-purpose", "sslclient"] },
    { purpose: "serverAuth", args: ["-purpose", "sslserver"] },
  ] as const;

  function command(name: string, i: number, chain: readonly Uint8Array[], root: Uint8Array): string[] {
    const file = (part: string, text: string): string => {
      const path = join(dir, `${name}-${i}.${part}.pem`);
      writeFileSync(path, text);
      return path;
    };
    const [leaf, ...rest] = chain;
    const trusted = ["-CAfile", file("root", pem(root)), "-untrusted", file("rest", pem(...rest, root))];
    const time = ["-attime", String(AT.getTime() / 1000)];
    return ["verify", "-x509_strict", ...time, ...PURPOSES[i % 3]!.args, ...trusted, file("leaf", pem(leaf!))];
  }

  it("never accepts what openssl refuses, over hundreds of spoiled chains", async () => {
    const seed = Number(process.env["PATH_SEED"] ?? 20261122);
    const cases = fc.sample(mutatedChain, { numRuns: 700, seed });
    const verdicts = await opensslBatch(cases.map(({ chain, root }, i) => command("all", i, chain, root)));
    const disputed: { what: string; args: string[] }[] = [];
    const tooStrict: string[] = [];
    let both = 0;
    let neither = 0;
    for (const [i, { chain, root, story }] of cases.entries()) {
      const { purpose } = PURPOSES[i % 3]!;
      const result = await validatePath({ chain, roots: [root], at: AT, purpose, verify: webCryptoVerify });
      const theirs = verdicts[i]!.ok;
      const what = `#${i} ${purpose}: ${story}`;
      if (result.ok && !theirs) {
        // openssl follows one candidate only; ours backs out of a forged one. The path it found must please openssl too.
        const path = result.path.slice(0, -1).map((one) => one.der);
        disputed.push({ what, args: command("path", i, path, root) });
      }
      if (!result.ok && theirs && !STRICTER.has(result.reason)) tooStrict.push(`${what}: ${result.reason}`);
      if (result.ok && theirs) both++;
      if (!result.ok && !theirs) neither++;
    }
    const again = await opensslBatch(disputed.map(({ args }) => args));
    const wrong = disputed.flatMap(({ what }, i) => (again[i]!.ok ? [] : [`${what}: ${again[i]!.text}`]));
    expect(wrong).toEqual([]);
    expect(tooStrict).toEqual([]);
    // A comparison that refuses everything, or spoils nothing, would show nothing
    expect(disputed.length).toBeLessThan(20);
    expect(both).toBeGreaterThan(100);
    expect(neither).toBeGreaterThan(200);
  }, 120_000);
});
