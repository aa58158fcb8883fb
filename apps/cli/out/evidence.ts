import { copyFile, mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fromBase64 } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { sha256Hex } from "../../../lib/domain/hash.ts";
import { httpSource } from "../../../lib/ledger/http.ts";
import { formatPolicy } from "../../../lib/ledger/policy.ts";
import { parseVkey } from "../../../lib/ledger/note.ts";
import { LedgerIndex } from "../../../lib/ledger/passport-build.ts";
import { LogReader } from "../../../lib/ledger/reader.ts";
import { parseCertificate, type Certificate } from "../../../lib/pki/certificate.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { keyId } from "../../../lib/pki/spki.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import type { Policy } from "../../../lib/records/policy.ts";
import type { StackFile } from "../../site/stack/stack-file.ts";
import { folderFetch } from "../evidence/folder.ts";
import { nodeSha256 } from "../evidence/hash.ts";
import { startProgress, step } from "../progress.ts";
import type { LotDevice } from "../scenario/lot.ts";
import { writeDevices, writeSummary, type Summary } from "./devices.ts";
import { mirrorLog } from "./mirror.ts";
import { writePassports } from "./passports.ts";

/** What the run has to say of itself beside the evidence. */
export interface RunResult {
  readonly certified: number;
  readonly seconds: number;
  readonly devicesPerSecond: number;
  readonly connected: number;
  readonly telemetry: number;
}

const OURS = new Set([
  "summary.json",
  "root.pem",
  "policy.json",
  "refused.ndjson",
  "parties",
  "devices",
  "ledger",
  "firmware",
]);

/** What an output folder of ours has from its first moment on. */
const OUR_MARK = "ledger";

/**
 * Looks whether the output can be written there: into a new or empty folder, or in the place of an older one of ours.
 * That one is left as it is until there is something new to put there.
 * @throws CountersignError `usage` when the folder holds something that isn't ours
 */
export async function checkOut(dir: string): Promise<string[]> {
  await mkdir(dir, { recursive: true });
  const names = await readdir(dir);
  const strange = names.find((name) => !OURS.has(name));
  if (strange !== undefined) {
    throw new CountersignError(
      "usage",
      `--out ${dir} holds ${strange}, which is none of ours: name an empty or new folder`,
    );
  }
  if (names.length > 0 && !names.includes(OUR_MARK)) {
    throw new CountersignError("usage", `--out ${dir} isn't empty, and no output of ours: name an empty or new folder`);
  }
  return names;
}

/** Writes the output folder that scripts and auditors rely on (docs/commands.md). The summary comes last. */
export async function writeEvidence(
  dir: string,
  stack: StackFile,
  devices: readonly LotDevice[],
  run: RunResult,
  refused: readonly object[],
  firmwareDir: string,
): Promise<void> {
  for (const name of await checkOut(dir)) await rm(join(dir, name), { recursive: true, force: true });
  const logs = await step("Ledgers are copied", () => copyLedgers(dir, stack));
  const { root, cas } = certificatesIn(logs);
  const policy: Policy = {
    schema: 1,
    rootSha256: sha256Hex(root.der),
    logs: Object.fromEntries(stack.sites.map((site) => [site.id, policyOf(site, stack.sites)])),
  };
  await writeFile(join(dir, "root.pem"), pemEncode("CERTIFICATE", root.der));
  await writeFile(join(dir, "policy.json"), `${JSON.stringify(policy, null, 2)}\n`);
  await writeParties(dir, stack, cas);
  await writeDevices(dir, devices);
  await copyFirmware(dir, devices, firmwareDir);
  const certified = devices.filter((device) => device.chain !== null).map((device) => device.deviceId);
  const progress = startProgress("Passports", certified.length);
  await writePassports(dir, { devices: certified, logs, root, policy, onPassport: (done) => progress.update(done) });
  progress.finish();
  if (refused.length > 0) {
    await writeFile(join(dir, "refused.ndjson"), refused.map((one) => `${JSON.stringify(one)}\n`).join(""));
  }
  await writeSummary(dir, summaryOf(stack, run, refused.length));
}

/** Every other party is a witness, and all of them have to be: a log's own party never counts. */
function policyOf(site: StackFile["sites"][number], sites: StackFile["sites"]): string {
  const others = sites.filter(({ id }) => id !== site.id).map(({ witnessVkey }) => parseVkey(witnessVkey));
  return formatPolicy(parseVkey(site.vkey), others);
}

async function copyLedgers(dir: string, stack: StackFile): Promise<Map<string, LedgerIndex>> {
  const logs = new Map<string, LedgerIndex>();
  for (const site of stack.sites) {
    const folder = join(dir, "ledger", site.id);
    await mirrorLog(httpSource(`${site.publicUrl}/ledger`), folder);
    const reader = await LogReader.open({
      fetch: folderFetch(folder),
      log: parseVkey(site.vkey),
      verify: webCryptoVerify,
      sha256: nodeSha256,
    });
    logs.set(site.id, await LedgerIndex.read(site.id, reader));
  }
  return logs;
}

/** The root and each party's CA certificate, as the ledgers have them. */
function certificatesIn(logs: ReadonlyMap<string, LedgerIndex>): { root: Certificate; cas: Map<string, Certificate> } {
  const cas = new Map<string, Certificate>();
  let root: Certificate | undefined;
  for (const [party, log] of logs) {
    for (const { parsed } of log.shared.values()) {
      const { act } = parsed;
      if (act.type === "delegation") cas.set(act.fields.child, parseCertificate(fromBase64(act.fields.certificate)));
      if (act.type !== "ceremony") continue;
      root = parseCertificate(fromBase64(act.fields.root));
      cas.set(party, root);
    }
  }
  if (!root) throw new CountersignError("not-found", "no ledger holds a root ceremony");
  return { root, cas };
}

async function writeParties(dir: string, stack: StackFile, cas: ReadonlyMap<string, Certificate>): Promise<void> {
  for (const site of stack.sites) {
    const ca = cas.get(site.id);
    if (!ca) continue;
    const folder = join(dir, "parties", site.id);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "ca.pem"), pemEncode("CERTIFICATE", ca.der));
    const path = `${keyId(ca.spki).slice(0, 16)}.crl`;
    const crl = await httpSource(`${site.publicUrl}/crl`)(path);
    if (!crl) throw new CountersignError("not-found", `${site.id} serves no CRL for its CA`);
    await writeFile(join(folder, "crl.pem"), pemEncode("X509 CRL", crl));
  }
}

async function copyFirmware(dir: string, devices: readonly LotDevice[], firmwareDir: string): Promise<void> {
  const originals = new Set(devices.flatMap((device) => device.receipt?.original.path ?? []));
  if (originals.size > 0) await mkdir(join(dir, "firmware"), { recursive: true });
  for (const path of originals) await copyFile(join(firmwareDir, path.replace(/^firmware\//, "")), join(dir, path));
}

function summaryOf(stack: StackFile, run: RunResult, refused: number): Summary {
  return {
    devices: run.certified,
    seconds: run.seconds,
    devicesPerSecond: run.devicesPerSecond,
    parties: stack.sites.map(({ id, name, role, parent, origin, vkey, witnessVkey }) => ({
      id,
      name,
      role,
      parent,
      origin,
      vkey,
      witnessVkey,
    })),
    hub: { connected: run.connected, telemetry: run.telemetry },
    ...(refused > 0 ? { refused } : {}),
  };
}
