import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tempDir } from "../../test/support/index.ts";
import { issue, issueCa, issueCrl, pem, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { opensslBatch } from "../../test/support/judge.ts";
import { AT, BASES, constrainedChain, mutatedChain, NAMES } from "../../test/support/mutated-chains.ts";
import { resignedChain } from "../../test/support/resigned-chains.ts";
import { validatePath } from "./path.ts";
import { pemEncode } from "./pem.ts";
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
  "extension-critical", // name constraints must be
  "policy-unsupported", // openssl ignores policies unless asked
  "policy-not-satisfied", // the same
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

  it("never accepts a name that openssl finds constrained", async () => {
    const pairs = BASES.flatMap((base) =>
      NAMES.flatMap((names) => (["permitted", "excluded"] as const).map((side) => constrainedChain(base, names, side))),
    );
    // Every fifth, each run of the suite the same; the names are hostile enough to be worth all of them now and then
    const every = Number(process.env["NAMES_EVERY"] ?? 5);
    const cases = pairs.filter((_, i) => i % every === 0);
    const verdicts = await opensslBatch(cases.map(({ chain, root }, i) => command("names", i * 3, chain, root)));
    const wrong: string[] = [];
    const tooStrict: string[] = [];
    let both = 0;
    for (const [i, { chain, root, story }] of cases.entries()) {
      const result = await validatePath({ chain, roots: [root], at: AT, verify: webCryptoVerify });
      if (result.ok && !verdicts[i]!.ok) wrong.push(`${story}: ${verdicts[i]!.text}`);
      if (!result.ok && verdicts[i]!.ok && result.reason === "name-constraint-violated") tooStrict.push(story);
      if (result.ok && verdicts[i]!.ok) both++;
    }
    expect(wrong).toEqual([]);
    // Stricter in these two of all 1,152 pairs: a base with a dot excludes its domain, a wildcard what it may stand for
    const known = [
      'excluded .example.com: [{"kind":"dns","value":"example.com"}]',
      'excluded device.example.com: [{"kind":"dns","value":"*.example.com"}]',
    ];
    expect(
      tooStrict.filter((story) => !known.some((one) => story.endsWith(one.slice(9)) && story.startsWith("excluded"))),
    ).toEqual([]);
    expect(both).toBeGreaterThan(cases.length / 4);
  }, 240_000);

  it.each([
    ["spoiled chains", mutatedChain, 400, 8],
    ["chains broken and signed again", resignedChain, 300, 12],
  ] as const)(
    "never accepts what openssl refuses, over hundreds of %s",
    async (_what, chains, count, oneIn) => {
      const seed = Number(process.env["PATH_SEED"] ?? 20261122);
      const cases = fc.sample(chains, { numRuns: Number(process.env["PATH_CASES"] ?? count), seed });
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
      expect(both).toBeGreaterThan(cases.length / oneIn);
      expect(neither).toBeGreaterThan(cases.length / 4);
    },
    240_000,
  );

  it("never accepts by CRLs what openssl refuses by them", async () => {
    const root = throwawayRoot({ commonName: "Root" });
    const ca = issueCa(root, { commonName: "CA" });
    const leaf = issue(ca, "ldevid", { commonName: "dev-1" }, throwawayKey().spki);
    const chain = [leaf.der, ca.certificate.der];
    const start = Math.floor(Date.now() / 1000);
    const crlOf = fc.record({
      by: fc.constantFrom(root, root, ca, ca, { ...ca, key: throwawayKey() }),
      from: fc.constantFrom(-3, -2, -1, -1, -1, 1),
      hours: fc.integer({ min: 1, max: 6 }),
      revoked: fc.uniqueArray(fc.constantFrom(leaf.serial, ca.certificate.serial, "01", "02", "03", "04"), {
        maxLength: 2,
      }),
    });
    const cases = fc.sample(fc.array(crlOf, { minLength: 1, maxLength: 4 }), { numRuns: 120, seed: 7 }).map((drafts) =>
      drafts.map(({ by, from, hours, revoked }, i) => ({
        by,
        der: issueCrl(by, {
          number: BigInt(i),
          thisUpdate: new Date((start + from * 3600) * 1000),
          nextUpdate: new Date((start + (from + hours) * 3600) * 1000),
          revoked: revoked.map((serial) => ({ serial, revokedAt: new Date((start - 90_000) * 1000) })),
        }),
      })),
    );
    const at = new Date((start + 60) * 1000);
    const runs = cases.map((crls, i) => {
      const base = command("crl", i * 3, chain, root.certificate.der).map((arg, n, all) =>
        all[n - 1] === "-attime" ? String(start + 60) : arg,
      );
      const file = join(dir, `crl-${i}.crl.pem`);
      // openssl settles on one CRL before it checks the signature; ours passes over a forged one beside a genuine one
      const genuine = crls.some(({ by }) => by === ca) ? crls.filter(({ by }) => by === ca || by === root) : crls;
      writeFileSync(file, genuine.map((one) => pemEncode("X509 CRL", one.der)).join(""));
      return ["verify", "-crl_check_all", ...(crls.length > 0 ? ["-CRLfile", file] : []), ...base.slice(1)];
    });
    const verdicts = await opensslBatch(runs);
    let both = 0;
    for (const [i, crls] of cases.entries()) {
      const request = {
        chain,
        roots: [root.certificate],
        at,
        crls: crls.map(({ der }) => der),
        revocation: "all",
        verify: webCryptoVerify,
      } as const;
      const result = await validatePath(request);
      if (result.ok) expect(verdicts[i], `case ${i}: ${verdicts[i]!.text}`).toMatchObject({ ok: true });
      if (result.ok) both++;
    }
    expect(both).toBeGreaterThan(10);
  }, 240_000);
});
