import { readdir, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { auditLedgers, type AuditReport } from "../../../lib/ledger/audit/ledgers.ts";
import type { Finding } from "../../../lib/ledger/audit/finding.ts";
import { visible } from "../../../lib/ledger/audit/report/escape.ts";
import { reportHtml } from "../../../lib/ledger/audit/report/html.ts";
import { duration, sparkline } from "../../../lib/ledger/audit/report/plot.ts";
import type { Policy } from "../../../lib/records/policy.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { checkDeviceFiles } from "../evidence/files.ts";
import { assertFolder, folderFetch, readPolicy, readRoot } from "../evidence/folder.ts";
import { nodeSha256 } from "../evidence/hash.ts";
import { keepHeapSmall } from "../evidence/small-heap.ts";
import { writeSplitView } from "../evidence/split-view.ts";
import { paint, print, printJson, table } from "../output.ts";
import { startProgress, type Progress } from "../progress.ts";
import { registerAuditLog } from "./audit-log.ts";

interface Options {
  root?: string;
  policy?: string;
  previous?: string;
  evidence: string;
  report?: string;
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
    .option("--evidence <dir>", "where to write what proves that a ledger doesn't", ".")
    .option("--report <file.html>", "write the report as a page for people, too")
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign audit out --root out/root.pem --policy out/policy.json --report audit.html",
    )
    .action(async (dir: string | undefined, options: Options) => {
      if (dir === undefined || !options.root || !options.policy) {
        throw new CountersignError("usage", "say what to audit: countersign audit DIR --root PEM --policy FILE");
      }
      await auditFolder(dir, { ...options, root: options.root, policy: options.policy });
    });
  registerAuditLog(audit);
}

async function auditFolder(dir: string, options: Options & { root: string; policy: string }): Promise<void> {
  keepHeapSmall();
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
    ...(options.previous === undefined ? {} : { previous: copyIn(options.previous) }),
    onProgress(done, total) {
      progress ??= options.json ? undefined : startProgress("audit", total);
      progress?.update(done);
    },
  });
  progress?.finish();
  const files = await checkDeviceFiles(dir, result);
  if (options.previous !== undefined) files.push(...(await leftOut(options.previous, policy)));
  for (const [party, view] of result.splitViews) await writeSplitView(options.evidence, party, view);
  const wrong = files.filter(({ severity }) => severity === "error").length;
  const errors = result.report.errors + wrong;
  const report: AuditReport = {
    ...result.report,
    ok: errors === 0,
    errors,
    open: result.report.open + files.length - wrong,
    findings: [...result.report.findings, ...files],
  };
  if (options.report !== undefined) {
    await writeFile(
      options.report,
      reportHtml(report, { title: `Audit of ${basename(resolve(dir))}`, made: new Date() }),
    );
  }
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

const copyIn = (dir: string) => (party: string, path: string) => folderFetch(join(dir, "ledger", party))(path);

/** Ledgers that the older copy has and this audit doesn't look at. */
async function leftOut(previous: string, policy: Policy): Promise<Finding[]> {
  const names = (await readdir(join(previous, "ledger"))).filter((name) => !Object.hasOwn(policy.logs, name));
  return names.map((party) => ({
    severity: "open",
    code: "previous-missing",
    party,
    message: "the older copy has its ledger and the policy doesn't name it: nobody looked whether it goes on",
  }));
}

function printTimeline({ timeline }: AuditReport): void {
  if (timeline === undefined) return;
  const { from, step, acts } = timeline;
  const most = Math.max(...Object.values(acts).flat());
  print(paint("dim", `acts over time from ${from}, ${duration(step)} a column`));
  print(table(Object.entries(acts).map(([party, counts]) => [party, sparkline(counts, most)])));
}

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
  printTimeline(report);
  for (const lot of report.lots) {
    const places = [
      [lot.atBuilder, `still with ${lot.builder}`],
      [lot.onTheWay, "on the way"],
      [lot.missing, "not arrived"],
      [lot.uncertified, "uncertified"],
    ] as const;
    const owed = places.flatMap(([count, where]) => (count > 0 ? [`, ${count} ${where}`] : [])).join("");
    print(
      `lot ${lot.id}: ${lot.slots} slots, ${lot.built} built, ${lot.certified} certified, ${lot.injected} injected, ${lot.installed} installed${owed}`,
    );
  }
  for (const finding of report.findings.slice(0, 50)) {
    const where = `${finding.party}${finding.index === undefined ? "" : `#${finding.index}`}`;
    const mark = finding.severity === "error" ? paint("red", "wrong") : paint("yellow", "open");
    // What a ledger names a device, or a folder is called, must not steer the terminal.
    const what = visible(`${where}${finding.subject ? ` ${finding.subject}` : ""}: ${finding.message}`);
    print(`${mark} ${what} [${finding.code}]`);
  }
  if (report.findings.length > 50) print(`... and ${report.findings.length - 50} more (see --json)`);
  const unlisted = report.errors + report.open - report.findings.length;
  if (unlisted > 0)
    print(`${unlisted} more are counted and not listed: ${report.errors} wrong, ${report.open} open in all`);
  if (report.quorum === "none")
    print(paint("dim", "the policy asks for no witnesses: that nobody saw another version of a ledger is not shown"));
  if (report.ok) print(`${paint("green", "verified")} ${report.devices} devices, nothing wrong`);
}
