import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { partyPolicies } from "../../../lib/ledger/audit/begin.ts";
import { httpSource } from "../../../lib/ledger/http.ts";
import type { MonitoredLog } from "../../../lib/ledger/monitor/follow.ts";
import type { NoteKey } from "../../../lib/ledger/note.ts";
import type { TlogPolicy } from "../../../lib/ledger/policy.ts";
import { parseCertificatesPem, type Certificate } from "../../../lib/pki/certificate.ts";
import type { Policy } from "../../../lib/records/policy.ts";
import { readStackFile, type StackFile } from "../../site/stack/stack-file.ts";
import { readBounded } from "../evidence/folder.ts";
import { nodeSha256 } from "../evidence/hash.ts";
import { note } from "../output.ts";
import { stateFolder } from "../site-client.ts";

/**
 * Where the ledgers of the policy are, and their witnesses: as the options say, else the policy's URLs, else the stack.
 * @throws CountersignError `usage`, `policy-invalid`
 */
export async function logsOf(
  policy: Policy,
  options: { ledger?: string[]; witness?: string[] },
): Promise<MonitoredLog[]> {
  const policies = partyPolicies(policy);
  const ledgers = pairs(options.ledger, "--ledger");
  const witnesses = pairs(options.witness, "--witness");
  const stack = await readStackFile(stateFolder()).catch(() => undefined);
  return [...policies].map(([party, tlog]) => {
    const log = tlog.logs[0]!;
    const url = ledgers.get(party) ?? tlog.urls.get(log) ?? ledgerIn(stack, party);
    if (url === undefined) {
      throw new CountersignError("usage", `nobody says where the ledger of ${party} is: --ledger ${party}=URL`);
    }
    const timeoutMs = 15_000;
    const views = new Map(
      [...tlog.witnesses.values()].flatMap((key) => {
        const prefix = witnesses.get(key.name) ?? prefixOf(key, tlog, stack);
        if (prefix === undefined) return [];
        const path = `${Buffer.from(nodeSha256(Buffer.from(log.name))).toString("hex")}/checkpoint`;
        return [[key.name, () => httpSource(prefix, { timeoutMs: 5_000 })(path)] as const];
      }),
    );
    return { party, log, witnesses: [...tlog.witnesses.values()], fetch: httpSource(url, { timeoutMs }), views };
  });
}

const ledgerIn = (stack: StackFile | undefined, party: string): string | undefined => {
  const site = stack?.sites.find(({ id }) => id === party);
  return site && `${site.publicUrl}/ledger`;
};

function prefixOf(key: NoteKey, policy: TlogPolicy, stack: StackFile | undefined): string | undefined {
  const site = stack?.sites.find(({ witnessVkey }) => witnessVkey.startsWith(`${key.name}+${key.keyId}+`));
  return policy.urls.get(key) ?? (site && `${site.publicUrl}/witness`);
}

/** Read again for every round: what is put there meanwhile is looked for too. */
export async function readSeen(paths: readonly string[]): Promise<Certificate[]> {
  const certificates: Certificate[] = [];
  for (const path of paths) {
    const kind = await stat(path).catch((cause: unknown) => {
      throw new CountersignError("usage", `--seen ${path} doesn't exist`, { cause });
    });
    const files = kind.isDirectory() ? (await readdir(path)).map((name) => join(path, name)) : [path];
    for (const file of files) {
      const bytes = await readBounded(file);
      if (bytes !== undefined) certificates.push(...readCertificates(file, bytes));
    }
  }
  return certificates;
}

function readCertificates(file: string, bytes: Uint8Array): Certificate[] {
  try {
    return parseCertificatesPem(Buffer.from(bytes).toString("utf8"));
  } catch (cause) {
    // One file that isn't a certificate must not keep the others from being looked for.
    note(`${file} holds no certificates that can be read: ${(cause as Error).message}`);
    return [];
  }
}

function pairs(given: readonly string[] = [], option: string): Map<string, string> {
  return new Map(
    given.map((text) => {
      const split = text.indexOf("=");
      const [name, url] = [text.slice(0, split), text.slice(split + 1)];
      if (split < 1 || !URL.canParse(url)) throw new CountersignError("usage", `${option} ${text}: expected NAME=URL`);
      return [name, url];
    }),
  );
}
