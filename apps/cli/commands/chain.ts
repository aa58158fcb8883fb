import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { parseCertificatesPem } from "../../../lib/pki/certificate.ts";
import { parseCrl } from "../../../lib/pki/crl.ts";
import { formatName } from "../../../lib/pki/name.ts";
import { validatePath } from "../../../lib/pki/path.ts";
import { pemDecode } from "../../../lib/pki/pem.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { readNeeded, readRoot } from "../evidence/folder.ts";
import { paint, print, printJson } from "../output.ts";

interface Options {
  root: string;
  crl: string[];
  at?: string;
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
    .option("--json", "print the answer as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign chain verify out/devices/dev-1-0001/chain.pem --root out/root.pem --crl out/parties/company-x/crl.pem",
    )
    .action(async (file: string, options: Options) => {
      const at = options.at === undefined ? new Date() : new Date(options.at);
      if (Number.isNaN(at.getTime()))
        throw new CountersignError("usage", `--at ${options.at}: not a time; write it as 2026-07-01T00:00:00Z`);
      const root = await readRoot(options.root);
      const bytes = await readNeeded(file, "the chain");
      const crls = await Promise.all(
        options.crl.map(async (path) => {
          const crl = Buffer.from(await readNeeded(path, "the CRL"));
          return asEvidence(path, () =>
            parseCrl(crl[0] === 0x30 ? crl : (pemDecode(crl.toString("utf8"), "X509 CRL")[0] ?? new Uint8Array())),
          ).der;
        }),
      );
      const certificates = asEvidence(file, () =>
        parseCertificatesPem(Buffer.from(bytes).toString("utf8").replaceAll("\0", "")),
      );
      const result = await validatePath({
        chain: certificates.map((c) => c.der),
        roots: [root.der],
        at,
        crls,
        verify: webCryptoVerify,
      });
      if (!result.ok) {
        if (options.json) printJson({ ok: false, reason: result.reason, index: result.index, message: result.message });
        throw new CountersignError("path-invalid", `${file}: ${result.message} (${result.reason})`);
      }
      const subjects = [...certificates, root].map((c) => formatName(c.subject));
      if (options.json) return printJson({ ok: true, path: subjects });
      print(`${paint("green", "verified")} ${subjects.join(" <- ")}`);
    });
}

/** Evidence that can't be parsed is a no, not a misuse. */
function asEvidence<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    throw new CountersignError("path-invalid", `${file} can't be read: ${(cause as Error).message}`, { cause });
  }
}
