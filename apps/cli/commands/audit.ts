import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { auditLedgers, type AuditReport } from "../../../lib/ledger/audit/ledgers.ts";
import { auditLog } from "../../../lib/ledger/audit-log.ts";
import { parseVkey } from "../../../lib/ledger/note.ts";
import type { FetchResource } from "../../../lib/ledger/reader.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { checkDeviceFiles } from "../evidence/files.ts";
import { folderFetch, readBounded, readPolicy, readRoot } from "../evidence/folder.ts";
import { httpSource } from "../../../lib/ledger/http.ts";
import { nodeSha256 } from "../evidence/hash.ts";
import { paint, print, printJson, table } from "../output.ts";
import { startProgress, type Progress } from "../progress.ts";

interface Options {
  root?: string;
  policy?: string;
  previous?: string;
  json?: boolean;
}

export function registerAudit(program: Command): void {
  const audit = program
    .command("audit")
    .description("audit all ledgers of an output folder, certificates and custody included, offline")
    .argument("[dir]", "the folder that `start --out` wrote")
    .option("--root <pem>", "the trusted root")
    .option("--policy <file>", "policy.json: the root's digest and the logs' keys")
    .option("--previous <dir>", "an older copy of the folder: every ledger must continue it")
    .option("--json", "print the report as JSON")
    .addHelpText("after", "\nExample:\n  $ countersign audit out --root out/root.pem --policy out/policy.json")
    .action(async (dir: string | undefined, options: Options) => {
      if (dir === undefined || !options.root || !options.policy) {
        throw new CountersignError("usage", "say what to audit: countersign audit DIR --root PEM --policy FILE");
      }
      await auditFolder(dir, { ...options, root: options.root, policy: options.policy });
    });
  audit
    .command("log")
    .description("audit one ledger by itself: signature, every tile, every entry")
    .argument("<source>", "a folder or http(s) URL that holds `checkpoint` and `tile/`")
    .requiredOption("--vkey <vkey>", "the log's verifier key")
    .option("--previous <dir>", "an older copy of the log: it must be continued")
    .option("--json", "print the answer as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign audit log out/ledger/factory-y --vkey VKEY\n\nVKEY is the party's `vkey` in out/summary.json, or what `countersign party show` says.",
    )
    .action(async (source: string, _own: unknown, command: Command) => {
      await auditOne(source, command.optsWithGlobals());
    });
}

async function auditFolder(dir: string, options: Options & { root: string; policy: string }): Promise<void> {
  const root = await readRoot(options.root);
  const policy = await readPolicy(options.policy);
  await assertFolder(join(dir, "ledger"));
  // A mistyped --previous holds no checkpoint that anything could contradict.
  if (options.previous !== undefined) await assertFolder(join(options.previous, "ledger"));
  let progress: Progress | undefined;
  const result = await auditLedgers({
    root,
    policy,
    verify: webCryptoVerify,
    sha256: nodeSha256,
    fetch: (party, path) => folderFetch(join(dir, "ledger", party))(path),
    ...(options.previous === undefined ? {} : { previous: previousIn(options.previous) }),
    onProgress(done, total) {
      progress ??= options.json ? undefined : startProgress("audit", total);
      progress?.update(done);
    },
  });
  progress?.finish();
  const files = await checkDeviceFiles(dir, result);
  const errors = result.report.errors + files.length;
  const report: AuditReport = {
    ...result.report,
    ok: errors === 0,
    errors,
    findings: [...result.report.findings, ...files],
  };
  if (options.json) printJson(report);
  else printReport(report);
  if (!report.ok) {
    const first = report.findings.find((f) => f.severity === "error");
    throw new CountersignError(
      "audit-failed",
      `${dir}: ${errors} finding${errors === 1 ? "" : "s"}, the first: ${first?.party}: ${first?.message}`,
    );
  }
}

const previousIn = (dir: string) => (party: string) => readBounded(join(dir, "ledger", party, "checkpoint"));

function printReport(report: AuditReport): void {
  print(
    table([
      ["ledger", "acts", "of which"],
      ...report.parties.map((p) => [
        p.id,
        String(p.size),
        Object.entries(p.acts)
          .map(([type, count]) => `${count} ${type}`)
          .join(", "),
      ]),
    ]),
  );
  for (const lot of report.lots) {
    print(
      `lot ${lot.id}: ${lot.slots} slots, ${lot.built} built, ${lot.certified} certified, ${lot.injected} injected, ${lot.installed} installed`,
    );
  }
  for (const finding of report.findings.slice(0, 50)) {
    const where = `${finding.party}${finding.index === undefined ? "" : `#${finding.index}`}`;
    const mark = finding.severity === "error" ? paint("red", "wrong") : paint("yellow", "open");
    print(`${mark} ${where}${finding.subject ? ` ${finding.subject}` : ""}: ${finding.message} [${finding.code}]`);
  }
  if (report.findings.length > 50) print(`... and ${report.findings.length - 50} more (see --json)`);
  if (report.quorum === "none")
    print(paint("dim", "the policy asks for no witnesses: that nobody saw another version of a ledger is not shown"));
  if (report.ok) print(`${paint("green", "verified")} ${report.devices} devices, nothing wrong`);
}

async function auditOne(source: string, options: { vkey: string; previous?: string; json?: boolean }): Promise<void> {
  const fetch: FetchResource = /^https?:\/\//.test(source) ? httpSource(source) : folderFetch(source);
  if (!/^https?:\/\//.test(source)) await assertFolder(source);
  const previous = options.previous === undefined ? undefined : await readBounded(join(options.previous, "checkpoint"));
  if (options.previous !== undefined && !previous) {
    throw new CountersignError("usage", `--previous ${options.previous} holds no checkpoint`);
  }
  const result = await auditLog({
    fetch,
    log: verifierKey(options.vkey),
    verify: webCryptoVerify,
    sha256: nodeSha256,
    ...(previous ? { previous } : {}),
  });
  if (!result.ok) {
    if (options.json) printJson({ ok: false, reason: result.reason, code: result.code, message: result.message });
    throw new CountersignError(result.code, result.message);
  }
  const { origin, size, root } = result.checkpoint;
  if (options.json) return printJson({ ok: true, origin, size, root: Buffer.from(root).toString("hex") });
  print(`${paint("green", "verified")} ${origin}: ${size} entries, every one of them in the signed tree`);
}

/** On the command line a key that can't be read is misuse, not evidence. */
function verifierKey(text: string) {
  try {
    return parseVkey(text);
  } catch (cause) {
    throw new CountersignError("usage", `--vkey: ${(cause as Error).message}`, { cause });
  }
}

async function assertFolder(path: string): Promise<void> {
  try {
    await readdir(path);
  } catch (cause) {
    throw new CountersignError("usage", `${path} is no folder that can be read`, { cause });
  }
}
