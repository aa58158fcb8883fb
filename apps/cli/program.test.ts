import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { describe, expect, it } from "vitest";
import { countersign } from "../../test/scenarios/countersign.ts";
import { PROJECT_ROOT, tempDir } from "../../test/support/index.ts";
import { issue, issueCa, issueCrl, pem, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { testCertificate } from "../../test/support/test-pki.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { buildProgram } from "./program.ts";

/** What every command promises, whatever it does. */

function* runnable(command: Command, path: string): Generator<[string, Command]> {
  for (const sub of command.commands) yield* runnable(sub, `${path} ${sub.name()}`);
  if (command.commands.length === 0 || command.registeredArguments.length > 0) yield [path, command];
}

describe.each([...runnable(buildProgram(), "countersign")])("%s", (path, command) => {
  it("takes --json and --site, and shows an example of itself", () => {
    expect(command.options.map((option) => option.long)).toEqual(expect.arrayContaining(["--json", "--site"]));
    let help = "";
    command.configureOutput({ writeOut: (text) => (help += text) });
    command.outputHelp();
    const shown = path === "countersign start" ? "npm start" : path;
    expect(help.split(/^Examples?:$/m)[1]).toContain(shown);
  });
});

describe("docs/commands.md", () => {
  const page = readFileSync(join(PROJECT_ROOT, "docs", "commands.md"), "utf8");
  const commands = new Map(runnable(buildProgram(), "countersign"));
  // Deepest first.
  const named = (text: string) => [...commands.keys()].find((path) => `${text} `.startsWith(`${path} `));

  it("names every command", () => {
    expect([...commands.keys()].filter((path) => !page.includes(path))).toEqual([]);
  });

  it("names only commands and options that there are", () => {
    // An example a line; what follows after several blanks is prose.
    const examples = page.split("\n").flatMap((line) => (line.startsWith("countersign ") ? line.split("; ") : []));
    expect(examples.length).toBeGreaterThan(80);
    const unknown = examples.filter((line) => {
      const [example] = line.split(/ {3,}/);
      if (!example!.startsWith("countersign ")) return false;
      const path = named(example!);
      const known = path === undefined ? [] : commands.get(path)!.options.map(({ long }) => long);
      return path === undefined || [...example!.matchAll(/--[a-z-]+/g)].some(([option]) => !known.includes(option));
    });
    expect(unknown).toEqual([]);
  });
});

describe("what is wrong is said once", () => {
  const misuse: [string, string[]][] = [
    ["an unknown command", ["lott"]],
    ["an unknown option", ["trace", "dev-1", "--bogus"]],
    ["a missing argument", ["sign", "--lot", "lot-1"]],
    ["a missing option", ["verify", "passport.json"]],
    ["a number that is none", ["lot", "open", "lot-1", "--slots", "-1"]],
    ["a site that is no party ID", ["trace", "dev-1", "--site", "../x"]],
    ["a folder in the place of a file", ["verify", "/", "--root", "/", "--policy", "/"]],
    ["a choice that there isn't", ["ceremony", "draft", "--key", "rot13"]],
  ];
  it.each(misuse)("%s: one line, one JSON document, exit code 2", async (_name, args) => {
    const run = await countersign([...args, "--json"]);
    expect(run).toMatchObject({ code: 2, stderr: expect.stringMatching(/^countersign: [^\n]+ \[[a-z-]+\]\n$/) });
    const { error } = JSON.parse(run.stdout) as { error: { code: string } };
    expect(run.stderr).toContain(`[${error.code}]`);
  });

  it("a no with its reasons is one JSON document too", async () => {
    const dir = tempDir("no");
    const root = await testCertificate("CN=root", { ca: true });
    const stranger = await testCertificate("CN=stranger", { ca: true });
    const leaf = await testCertificate("CN=dev-1", { issuer: stranger });
    writeFileSync(join(dir, "root.pem"), root.pem);
    writeFileSync(join(dir, "chain.pem"), leaf.pem);
    writeFileSync(join(dir, "noise"), Uint8Array.of(0, 159, 146, 150));
    const verify = (chain: string, ...more: string[]) =>
      countersign(["chain", "verify", join(dir, chain), "--root", join(dir, "root.pem"), "--json", ...more]);

    const refused = await verify("chain.pem");
    expect(refused.code).toBe(1);
    expect(JSON.parse(refused.stdout)).toMatchObject({ ok: false });
    // Evidence that can't be read is a no; a root that can't is misuse.
    expect((await verify("noise")).code).toBe(1);
    expect((await verify("chain.pem", "--crl", join(dir, "noise"))).code).toBe(1);
    const noRoot = await countersign(["chain", "verify", join(dir, "chain.pem"), "--root", join(dir, "noise")]);
    expect(noRoot).toMatchObject({ code: 2, stderr: expect.stringContaining("noise") });
  });

  it("every CRL of a file counts, and one of no CA of the path is refused", async () => {
    const dir = tempDir("crls");
    const root = throwawayRoot({ commonName: "Root" });
    const ca = issueCa(root, { commonName: "CA" });
    const leaf = issue(ca, "ldevid", { commonName: "dev-1" }, throwawayKey().spki);
    const stranger = throwawayRoot({ commonName: "Stranger" });
    const revoked = [{ serial: leaf.serial, revokedAt: new Date("2026-01-01T00:00:00Z") }];
    const crl = (...ders: Uint8Array[]) => ders.map((one) => pemEncode("X509 CRL", one)).join("");
    const files = {
      "root.pem": pem(root.certificate.der),
      // Unreadable certificates beside the chain do no harm
      "chain.pem": pem(leaf.der, leaf.der.slice(0, 50), ca.certificate.der),
      "both.pem": crl(issueCrl(root), issueCrl(ca)),
      "revoked.pem": crl(issueCrl(root), issueCrl(ca, { revoked })),
      "root-crl.pem": crl(issueCrl(root)),
      "stray.pem": crl(issueCrl(root), issueCrl(stranger)),
      "none.pem": pem(leaf.der),
    };
    for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
    const verify = async (...more: string[]): Promise<unknown> => {
      const files = more.map((one) => (one.endsWith(".pem") ? join(dir, one) : one));
      const root = ["--root", join(dir, "root.pem")];
      return JSON.parse(
        (await countersign(["chain", "verify", join(dir, "chain.pem"), ...root, "--json", ...files])).stdout,
      );
    };

    const path = ["CN=dev-1", "CN=CA", "CN=Root"];
    expect(await verify()).toEqual({ ok: true, path, revocationChecked: [false, false] });
    expect(await verify("--crl", "both.pem")).toEqual({ ok: true, path, revocationChecked: [true, true] });
    expect(await verify("--crl", "root-crl.pem")).toMatchObject({ ok: true, revocationChecked: [false, true] });
    expect(await verify("--crl", "root-crl.pem", "--require-crls")).toMatchObject({ reason: "crl-missing" });
    expect(await verify("--crl", "revoked.pem")).toMatchObject({ ok: false, reason: "revoked", index: 0 });
    expect(await verify("--crl", "stray.pem")).toMatchObject({ ok: false, reason: "crl-issuer" });
    expect(await verify("--at", "2020-01-01")).toMatchObject({ reason: "not-yet-valid" });
    expect(await verify("--at", "2020-01-01T00:00:00")).toMatchObject({ error: { code: "usage" } });
    expect(await verify("--crl", "none.pem")).toMatchObject({ error: { code: "path-invalid" } });
  }, 60_000);

  it("an older copy to compare with that isn't there is misuse, not agreement", async () => {
    const dir = tempDir("previous");
    mkdirSync(join(dir, "ledger"));
    const root = await testCertificate("CN=root", { ca: true });
    writeFileSync(join(dir, "root.pem"), root.pem);
    const policy = { schema: 1, rootSha256: "0".repeat(64), logs: {} };
    writeFileSync(join(dir, "policy.json"), JSON.stringify(policy));
    const pins = ["--root", join(dir, "root.pem"), "--policy", join(dir, "policy.json")];
    const run = await countersign(["audit", dir, ...pins, "--previous", join(dir, "mistyped")]);
    expect(run).toMatchObject({ code: 2, stderr: expect.stringContaining("mistyped") });
  });
});
