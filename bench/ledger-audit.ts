import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { nodeSha256 } from "../services/ledger/sha256.ts";
import { folderFetch } from "../apps/cli/evidence/folder.ts";
import { keepHeapSmall } from "../apps/cli/evidence/small-heap.ts";
import { nodeVerifyAside } from "../hsm/index.ts";
import { fromBase64 } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { auditLedgers } from "../lib/ledger/audit/ledgers.ts";
import { auditLog } from "../lib/ledger/audit-log.ts";
import { parsePolicy } from "../lib/ledger/policy.ts";
import { isSignedBy } from "../lib/pki/algorithms.ts";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { webCryptoVerify } from "../lib/pki/verify.ts";
import type { Policy } from "../lib/records/policy.ts";
import { Ca, PARTY, spkiOf } from "./ledger-records.ts";

/**
 * The auditor's side of the ledger benchmark, in a process of its own, so that its memory can be told.
 *
 *   node bench/ledger-audit.ts DIR tree|acts|certificates    reads DIR/ledger as exported; prints what that took
 */

export interface Audited {
  readonly entries: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly maxRssBytes: number;
}

const CERTIFICATES = 2000;
const ROUNDS = 5;

async function audit(dir: string, what: string): Promise<Audited> {
  const work = { tree: auditTree, acts: auditActs, certificates: verifyCertificates }[what];
  if (work === undefined) throw new CountersignError("usage", `no audit of ${what}`);
  keepHeapSmall();
  const run = await work(dir);
  const before = process.cpuUsage();
  const began = performance.now();
  const entries = await run();
  const seconds = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(before);
  return { entries, seconds, cpuSeconds: (user + system) / 1e6, maxRssBytes: process.resourceUsage().maxRSS * 1024 };
}

function pinsIn(dir: string) {
  const { root, policy } = JSON.parse(readFileSync(join(dir, "pins.json"), "utf8")) as { root: string; policy: Policy };
  return { root: parseCertificate(fromBase64(root)), policy };
}

/** Signature, tiles, entries: nothing of what the entries say. */
async function auditTree(dir: string) {
  const { policy } = pinsIn(dir);
  const log = parsePolicy(policy.logs[PARTY]!).logs[0]!;
  const fetch = folderFetch(join(dir, "ledger", PARTY));
  return async () => {
    const result = await auditLog({ fetch, log, verify: webCryptoVerify, sha256: nodeSha256 });
    if (!result.ok) throw new CountersignError("internal", `the audit says: ${result.message}`);
    return result.entries;
  };
}

/** As `countersign audit` does. */
async function auditActs(dir: string) {
  const { root, policy } = pinsIn(dir);
  const fetch = folderFetch(join(dir, "ledger", PARTY));
  return async () => {
    const { report } = await auditLedgers({
      root,
      policy,
      verify: webCryptoVerify,
      sha256: nodeSha256,
      fetch: (_, path) => fetch(path),
    });
    if (!report.ok) throw new CountersignError("internal", `the audit says: ${JSON.stringify(report.findings[0])}`);
    return report.parties[0]!.size;
  };
}

/** Device certificates of one issuer, read and checked, on the threads that Node has for it. */
async function verifyCertificates() {
  const ca = new Ca("Bench CA");
  const spki = spkiOf(generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey);
  const ders = Array.from({ length: CERTIFICATES }, (_, i) => ca.issue("idevid", { commonName: `DEV-${i}` }, spki).der);
  return async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const good = await Promise.all(ders.map((der) => isSignedBy(parseCertificate(der), ca.spki, nodeVerifyAside)));
      if (good.includes(false)) throw new CountersignError("internal", "a certificate's signature doesn't verify");
    }
    return CERTIFICATES * ROUNDS;
  };
}

if (import.meta.main) process.stdout.write(JSON.stringify(await audit(process.argv[2]!, process.argv[3]!)));
