import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { auditLog } from "../../../lib/ledger/audit-log.ts";
import { httpSource } from "../../../lib/ledger/http.ts";
import { parseVkey } from "../../../lib/ledger/note.ts";
import type { FetchResource } from "../../../lib/ledger/reader.ts";
import { checkSplitView } from "../../../lib/ledger/split-view.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { journaledSource } from "../../site/ledger-source.ts";
import { assertFolder, folderFetch, readNeeded } from "../evidence/folder.ts";
import { nodeSha256 } from "../evidence/hash.ts";
import { writeSplitView } from "../evidence/split-view.ts";
import { paint, print, printJson } from "../output.ts";

interface LogOptions {
  vkey: string;
  witness?: string[];
  previous?: string;
  evidence: string;
  json?: boolean;
}

/** `countersign audit log` and `audit evidence`: one ledger by itself. */
export function registerAuditLog(audit: Command): void {
  audit
    .command("log")
    .description("audit one ledger by itself: signature, every tile, every entry")
    .argument("<source>", "a folder or http(s) URL that holds `checkpoint` and `tile/`")
    .requiredOption("--vkey <vkey>", "the log's verifier key")
    .option("--witness <vkey>", "a witness that must have cosigned the checkpoint; may be repeated", collect)
    .option("--previous <dir>", "an older copy of the log: it must be continued")
    .option("--evidence <dir>", "where to write what proves that it isn't", ".")
    .option("--json", "print the answer as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign audit log out/ledger/factory-y --vkey VKEY\n\nVKEY is the party's `vkey` in out/summary.json, or what `countersign party show` says.",
    )
    .action(async (source: string, _own: unknown, command: Command) => {
      await auditOne(source, command.optsWithGlobals());
    });
  audit
    .command("evidence")
    .description("check what another audit or a monitor found: does it prove that a log signed two histories?")
    .argument("<file>", "split-view-....json")
    .option("--vkey <vkey>", "the log's verifier key; without it, the file's own")
    .option("--json", "print the answer as JSON")
    .addHelpText("after", "\nExample:\n  $ countersign audit evidence split-view-factory-y.json --vkey VKEY")
    .action(async (file: string, _own: unknown, command: Command) => {
      await checkEvidence(file, command.optsWithGlobals());
    });
}

async function auditOne(source: string, options: LogOptions): Promise<void> {
  const remote = /^https?:\/\//.test(source);
  const fetch: FetchResource = remote ? httpSource(source) : folderLog(source);
  if (!remote) await assertFolder(source);
  const log = verifierKey(options.vkey, "--vkey");
  const witnesses = (options.witness ?? []).map((vkey) => verifierKey(vkey, "--witness"));
  // Where a log is served, its newest checkpoint may be waiting for its witnesses yet.
  const cosigned = remote && witnesses.length > 0 ? await fetch("cosigned/newest") : undefined;
  const previousFetch = options.previous === undefined ? undefined : folderLog(options.previous);
  const previous = await previousFetch?.("checkpoint");
  if (options.previous !== undefined && !previous) {
    throw new CountersignError("usage", `--previous ${options.previous} holds no checkpoint`);
  }
  const result = await auditLog({
    fetch,
    log,
    witnesses,
    verify: webCryptoVerify,
    sha256: nodeSha256,
    ...(cosigned === undefined ? {} : { checkpoint: cosigned }),
    ...(previous && previousFetch ? { previous, previousFetch } : {}),
  });
  if (!result.ok) {
    if (result.evidence)
      await writeSplitView(options.evidence, log.name.replaceAll(/[^A-Za-z0-9.-]/g, "_"), result.evidence);
    if (options.json) printJson({ ok: false, reason: result.reason, code: result.code, message: result.message });
    throw new CountersignError(result.code, result.message);
  }
  const { origin, size, root, signatures } = result.checkpoint;
  const missing = witnesses.filter((key) => !signatures.some((signature) => signature.key === key));
  if (missing.length > 0) {
    const names = missing.map(({ name }) => name).join(", ");
    const message = `the checkpoint of ${origin} at ${size} entries isn't cosigned by ${names}`;
    if (options.json) printJson({ ok: false, reason: "invalid", code: "checkpoint-invalid", message });
    throw new CountersignError("checkpoint-invalid", message);
  }
  const cosignatures = signatures.flatMap(({ key, time }) =>
    time === undefined ? [] : [{ witness: key.name, time: new Date(time * 1000).toISOString() }],
  );
  if (options.json) {
    return printJson({ ok: true, origin, size, root: Buffer.from(root).toString("hex"), cosignatures });
  }
  print(`${paint("green", "verified")} ${origin}: ${size} entries, every one of them in the signed tree`);
  for (const { witness, time } of cosignatures) print(`cosigned by ${witness} at ${time}`);
}

/** A static log, or a site's own copy of its ledger, also while the site runs. */
function folderLog(folder: string): FetchResource {
  return journaledSource(folder, folderFetch(folder));
}

async function checkEvidence(file: string, options: { vkey?: string; json?: boolean }): Promise<void> {
  const bytes = await readNeeded(file, "the evidence");
  let evidence: unknown;
  try {
    evidence = JSON.parse(Buffer.from(bytes).toString("utf8"));
  } catch (cause) {
    throw new CountersignError("proof-invalid", `${file} is no JSON`, { cause });
  }
  const log = options.vkey === undefined ? undefined : verifierKey(options.vkey, "--vkey");
  const { origin, sizes } = await checkSplitView(evidence, webCryptoVerify, log);
  if (options.json) return printJson({ ok: true, origin, sizes });
  print(`${paint("green", "proven")} ${origin} signed ${sizes[0]} and ${sizes[1]} entries that no single history has`);
  if (!log) print(paint("dim", "by the key in the file: compare it with what you know of the log"));
}

const collect = (text: string, before: string[] = []): string[] => [...before, text];

/** On the command line a key that can't be read is misuse, not evidence. */
function verifierKey(text: string, option: string) {
  try {
    return parseVkey(text);
  } catch (cause) {
    throw new CountersignError("usage", `${option}: ${(cause as Error).message}`, { cause });
  }
}
