import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeEvidence } from "../../../apps/cli/out/evidence.ts";
import { folderFetch } from "../../../apps/cli/evidence/folder.ts";
import { nodeSha256 } from "../../../apps/cli/evidence/hash.ts";
import { SiteClient } from "../../../apps/cli/site-client.ts";
import { lotDevices, type LotDevice } from "../../../apps/cli/scenario/lot.ts";
import { loadHubConfig } from "../../../apps/hub/config.ts";
import { loadSiteConfig } from "../../../apps/site/config.ts";
import { equalBytes, fromBase64, toHex } from "../../../lib/domain/bytes.ts";
import { parseVkey } from "../../../lib/ledger/note.ts";
import { LogReader } from "../../../lib/ledger/reader.ts";
import { parseCertificate } from "../../../lib/pki/certificate.ts";
import { pemDecode, pemEncode } from "../../../lib/pki/pem.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { parseEntry } from "../../../lib/records/statement.ts";
import { connect, type Db } from "../../../store/db.ts";
import { countersign } from "../../scenarios/countersign.ts";
import { pause } from "./killer.ts";
import type { FaultRun } from "./run.ts";

export interface FaultReport {
  readonly csrs: number;
  readonly certificates: number;
  readonly answers: number;
  /** certificates beyond the first for a CSR, in any answer, the database or the ledger */
  readonly duplicates: number;
  readonly intentActs: number;
  readonly openIntents: number;
  /** intents that reconciliation had to sign, since no batch was left that would have */
  readonly settled: number;
  readonly audited: number;
  /** visits to the hub that were served, and those that a kill cut off and the device made again */
  readonly visits: number;
  readonly cutOff: number;
  /** messages that the hub acknowledged */
  readonly acknowledged: number;
  /** everything that doesn't hold; empty is what the run is for */
  readonly faults: readonly string[];
}

/** Looks at every answer, the database, the ledger and the exported evidence of a run whose components all serve again. */
export async function checkRun(run: FaultRun): Promise<FaultReport> {
  const faults = new Faults();
  const config = loadSiteConfig(join(run.home, run.party, "site.json"));
  const password = (await readFile(config.database.passwordFile, "utf8")).trim();
  const db = connect(config.database.url, { password, max: 2 });
  try {
    const { signed, known } = await reconcileAtSite(run);
    const stored = await checkDatabase(db, run, faults);
    const answers = checkAnswers(run, stored, faults);
    const devices: LotDevice[] = [];
    for await (const device of lotDevices(run.home, run.lot, run.party)) devices.push(device);
    for (const { deviceId, chain } of devices) {
      const [der] = pemDecode(chain ?? "", "CERTIFICATE");
      faults.unless(der !== undefined && same(der, stored.get(deviceId)), `${deviceId}: the device list shows another`);
    }
    const out = join(run.home, "out");
    const figures = { certified: devices.length, seconds: 0, devicesPerSecond: 0, connected: 0, telemetry: 0 };
    await writeEvidence(out, run.stack.info, devices, figures, [], config.firmwareDir);
    const ledger = await checkLedger(out, run, stored, faults);
    const pinned = ["--root", join(out, "root.pem"), "--policy", join(out, "policy.json")];
    const audit = await countersign(["audit", out, ...pinned, "--json"]);
    const report = JSON.parse(audit.stdout.slice(0, audit.stdout.indexOf("\n}\n") + 3)) as {
      findings: unknown[];
      devices: number;
    };
    faults.unless(audit.code === 0 && report.findings.length === 0, `audit: ${JSON.stringify(report.findings[0])}`);
    const duplicates = ledger.duplicates + run.asked.reduce((sum, { given }) => sum + Math.max(0, given.size - 1), 0);
    const openIntents = await count(db, "SELECT count(*) FROM issuance WHERE certificate IS NULL");
    faults.unless(openIntents === 0, `${openIntents} intents are open`);
    faults.unless(known === Math.min(256, run.asked.length), `the site knows ${known} of its own certificates`);
    return {
      csrs: run.asked.length,
      settled: signed,
      certificates: stored.size,
      answers,
      duplicates,
      intentActs: ledger.intents,
      openIntents,
      audited: report.devices,
      visits: run.visitor.visits,
      cutOff: run.visitor.failures,
      acknowledged: await checkHub(run, faults),
      faults: faults.list,
    };
  } finally {
    await db.end();
  }
}

/** What the hub acknowledged, it has; and what it saw is in the ledger, says the site it reported to. */
async function checkHub(run: FaultRun, faults: Faults): Promise<number> {
  const config = loadHubConfig(join(run.home, "hub", "hub.json"));
  const { url, passwordFile } = config.database;
  const db = connect(url, { password: (await readFile(passwordFile!, "utf8")).trim(), max: 1 });
  try {
    for (const [deviceId, acknowledged] of run.visitor.acknowledged) {
      const kept = await count(db, "SELECT count(*) FROM hub_telemetry WHERE device_id = $1", [deviceId]);
      faults.unless(kept >= acknowledged, `${deviceId}: ${acknowledged} messages acknowledged, ${kept} kept`);
    }
    const open = "SELECT count(*) FROM hub_sighting WHERE state IS NULL";
    for (const deadline = Date.now() + 90_000; (await count(db, open)) > 0 && Date.now() < deadline;) await pause(500);
    const { rows } = await db.query<{ state: string | null; n: number }>(
      "SELECT state, count(*) AS n FROM hub_sighting GROUP BY state",
    );
    const seen = Object.fromEntries(rows.map(({ state, n }) => [String(state), Number(n)]));
    const visited = run.visitor.acknowledged.size;
    faults.unless((seen["known"] ?? 0) >= visited && rows.length === 1, `the hub reported ${JSON.stringify(seen)}`);
    return [...run.visitor.acknowledged.values()].reduce((sum, n) => sum + n, 0);
  } finally {
    await db.end();
  }
}

/** As an operator asks for it; and the site must know what it gave out. */
async function reconcileAtSite(run: FaultRun): Promise<{ signed: number; known: number }> {
  const site = await SiteClient.open(run.party, { home: run.home });
  try {
    const { intents } = await site.post<{ intents: { signed: string[] } }>("/api/v1/reconciliations", {});
    const some = run.asked.slice(0, 256).flatMap(({ given }) => [...given.values()]);
    const certificates = some.map((der) => pemEncode("CERTIFICATE", der)).join("");
    const { results } = await site.post<{ results: { state: string }[] }>("/api/v1/seen", { certificates });
    return { signed: intents.signed.length, known: results.filter(({ state }) => state === "known").length };
  } finally {
    site.close();
  }
}

class Faults {
  readonly list: string[] = [];

  unless(holds: boolean, fault: string): void {
    if (!holds && this.list.length < 50) this.list.push(fault);
  }
}

async function count(db: Db, sql: string, values: unknown[] = []): Promise<number> {
  return Number((await db.query<{ count: number }>(sql, values)).rows[0]!.count);
}

const same = (a: Uint8Array, b: Uint8Array | undefined): boolean => b !== undefined && equalBytes(a, b);

/** One released certificate a device over its intent's bytes, each slot and serial once, the quota to the last. */
async function checkDatabase(db: Db, run: FaultRun, faults: Faults): Promise<Map<string, Uint8Array>> {
  const { rows } = await db.query<{
    device: string;
    slot: number;
    tbs: Uint8Array;
    certificate: Uint8Array | null;
    released: boolean;
  }>(
    `SELECT i.device, d.slot, i.tbs, i.certificate, EXISTS (SELECT FROM released_issuance r WHERE r.device = i.device AND r.profile = i.profile) AS released FROM issuance i JOIN device d ON d.id = i.device`,
  );
  const stored = new Map<string, Uint8Array>();
  const serials = new Set<string>();
  const slots = new Set<number>();
  for (const { device, slot, tbs, certificate, released } of rows) {
    if (certificate === null) continue;
    const parsed = parseCertificate(certificate);
    faults.unless(equalBytes(parsed.tbs, tbs), `${device}: signed bytes are not the intended ones`);
    faults.unless(!serials.has(parsed.serial), `${device}: serial ${parsed.serial} twice`);
    faults.unless(!slots.has(slot), `${device}: slot ${slot} twice`);
    faults.unless(!stored.has(device), `${device}: two certificates`);
    faults.unless(released, `${device}: not released`);
    serials.add(parsed.serial);
    slots.add(slot);
    stored.set(device, certificate);
  }
  const total = run.asked.length;
  const used = await count(db, "SELECT used AS count FROM grant_received WHERE current");
  faults.unless(used === total, `the quota says ${used}, not ${total}`);
  const taken = await count(db, "SELECT taken AS count FROM lot_slots WHERE lot = $1", [run.lot]);
  faults.unless(taken === total && Math.max(...slots) === total, `${taken} slots are taken, not ${total}`);
  const pending = await count(db, "SELECT count(*) FROM batch WHERE state <> 'done'");
  faults.unless(pending === 0, `${pending} batches aren't done`);
  const queued = await count(db, "SELECT count(*) FROM ledger_pending");
  faults.unless(queued === 0, `${queued} acts wait for the ledger`);
  return stored;
}

/** Every CSR has its answer, and the same in all of them. */
function checkAnswers(run: FaultRun, stored: ReadonlyMap<string, Uint8Array>, faults: Faults): number {
  let answers = 0;
  for (const { deviceId, spki, given, answers: own } of run.asked) {
    answers += own;
    faults.unless(given.size === 1, `${deviceId}: ${given.size} certificates in ${own} answers`);
    for (const der of given.values()) {
      const { subject, spki: certified } = parseCertificate(der);
      faults.unless(same(der, stored.get(deviceId)), `${deviceId}: the answer is not what is stored`);
      faults.unless(subject.cn === deviceId && equalBytes(certified, spki), `${deviceId}: another's certificate`);
    }
  }
  return answers;
}

/** Each certificate's act once, naming an intent act that counts it. */
async function checkLedger(out: string, run: FaultRun, stored: ReadonlyMap<string, Uint8Array>, faults: Faults) {
  const { vkey } = run.stack.info.sites.find(({ id }) => id === run.party)!;
  const reader = await LogReader.open({
    fetch: folderFetch(join(out, "ledger", run.party)),
    log: parseVkey(vkey),
    verify: webCryptoVerify,
    sha256: nodeSha256,
  });
  const left = new Map<string, number>();
  const certified = new Set<string>();
  let duplicates = 0;
  for await (const { bytes, leafHash } of reader.entries()) {
    const { act } = parseEntry(bytes);
    if (act.type === "intent") left.set(toHex(leafHash), act.fields.count);
    if (act.type !== "certified") continue;
    const name = act.subject[0]!.name;
    if (certified.has(name)) duplicates++;
    certified.add(name);
    const der = fromBase64(act.fields.certificate);
    faults.unless(same(der, stored.get(name)), `${name}: the ledger holds another certificate (${digest(der)})`);
    const open = left.get(act.fields.intent.leafHash);
    faults.unless(open !== undefined && open > 0, `${name}: no intent before it`);
    left.set(act.fields.intent.leafHash, (open ?? 0) - 1);
  }
  const unused = [...left.values()].reduce((sum, n) => sum + n, 0);
  faults.unless(unused === 0, `${unused} intents in the ledger have no certificate`);
  faults.unless(certified.size === stored.size, `${certified.size} certificates in the ledger, ${stored.size} stored`);
  faults.unless(stored.size === run.asked.length, `${stored.size} certificates for ${run.asked.length} CSRs`);
  faults.unless(duplicates === 0, `${duplicates} certificates in the ledger for a device that had one`);
  return { intents: left.size, duplicates };
}

const digest = (der: Uint8Array): string => createHash("sha256").update(der).digest("hex").slice(0, 16);
