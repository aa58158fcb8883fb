import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { parseCrl, type Crl } from "../../../lib/pki/crl.ts";
import { formatName, sameName } from "../../../lib/pki/name.ts";
import { validatePath, type PathResult } from "../../../lib/pki/path.ts";
import { pemDecode } from "../../../lib/pki/pem.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { readNeeded, readRoot } from "../evidence/folder.ts";
import { paint, print, printJson } from "../output.ts";

interface Options {
  root: string;
  crl: string[];
  at?: string;
  requireCrls?: boolean;
  json?: boolean;
}

export function registerChain(program: Command): void {
  const chain = program.command("chain").description("certificate chains");
  chain
    .command("verify")
    .description("validate a certification path (RFC 5280 section 6), offline")
    .argument("<chain>", "PEM file, leaf first, without the root")
    .requiredOption("--root <pem>", "the trusted root")
    .option(
      "--crl <file>",
      "a CRL of one of the CAs (may be repeated)",
      (file: string, all: string[]) => [...all, file],
      [],
    )
    .option("--at <time>", "the time to validate at, RFC 3339 (default: now)")
    .option("--require-crls", "refuse unless a current CRL is given of each CA that issued something in the path")
    .option("--json", "print the answer as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign chain verify out/devices/dev-1-0001/chain.pem --root out/root.pem --crl out/parties/company-x/crl.pem",
    )
    .action(async (file: string, options: Options) => {
      const at = options.at === undefined ? new Date() : new Date(options.at);
      // Without its offset, a time would be read as this machine's
      const written = options.at === undefined || /^\d{4}-\d{2}-\d{2}(T[\d:.]+(Z|[+-]\d{2}:\d{2}))?$/.test(options.at);
      if (!written || Number.isNaN(at.getTime()))
        throw new CountersignError("usage", `--at ${options.at}: not a time; write it as 2026-07-01T00:00:00Z`);
      const root = await readRoot(options.root);
      const bytes = await readNeeded(file, "the chain");
      const crls = (await Promise.all(options.crl.map(readCrls))).flat();
      const chain = asEvidence(file, () =>
        pemDecode(Buffer.from(bytes).toString("utf8").replaceAll("\0", ""), "CERTIFICATE"),
      );
      const revocation = options.requireCrls === true ? "all" : "if-given";
      const request = { chain, roots: [root.der], at, crls, revocation, verify: webCryptoVerify } as const;
      const result = withUsedCrls(await validatePath(request), crls);
      if (!result.ok) {
        if (options.json) printJson({ ok: false, reason: result.reason, index: result.index, message: result.message });
        throw new CountersignError("path-invalid", `${file}: ${result.message} (${result.reason})`);
      }
      const subjects = result.path.map((c) => formatName(c.subject));
      const { revocationChecked } = result;
      if (options.json) return printJson({ ok: true, path: subjects, revocationChecked });
      print(`${paint("green", "verified")} ${subjects.join(" <- ")}`);
      const unchecked = subjects.filter((_, i) => revocationChecked[i] === false);
      if (crls.length > 0 && unchecked.length > 0) print(`no CRL was given for: ${unchecked.join("; ")}`);
    });
}

/** All that the file holds: one that was passed over might hold the revocation. */
async function readCrls(path: string): Promise<Crl[]> {
  const bytes = Buffer.from(await readNeeded(path, "the CRL"));
  return asEvidence(path, () =>
    (bytes[0] === 0x30 ? [bytes] : pemDecode(bytes.toString("utf8"), "X509 CRL")).map(parseCrl),
  );
}

/** A CRL of none of the path's CAs says nothing of it, whatever whoever gave it believes: that must not read as checked. */
function withUsedCrls(result: PathResult, crls: readonly Crl[]): PathResult {
  if (!result.ok) return result;
  const stray = crls.find(({ issuer }) => !result.path.slice(1).some((ca) => sameName(ca.subject, issuer)));
  if (stray === undefined) return result;
  const message = `the CRL of ${formatName(stray.issuer)} is of no CA in this path: leave it out, or give the right one`;
  return { ok: false, reason: "crl-issuer", index: 0, message };
}

/** Evidence that can't be parsed is a no, not a misuse. */
function asEvidence<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    throw new CountersignError("path-invalid", `${file} can't be read: ${(cause as Error).message}`, { cause });
  }
}
