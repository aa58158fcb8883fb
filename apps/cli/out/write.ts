import { copyFile, mkdir, rename, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { sha256Hex } from "../../../lib/domain/hash.ts";
import { httpSource } from "../../../lib/ledger/http.ts";
import { formatPolicy } from "../../../lib/ledger/policy.ts";
import { parseVkey } from "../../../lib/ledger/note.ts";
import { parseCertificatesPem } from "../../../lib/pki/certificate.ts";
import type { Policy } from "../../../lib/records/policy.ts";
import type { Receipt } from "../../../lib/records/receipt.ts";
import type { StackFile } from "../../site/stack/stack-file.ts";
import { inParallel, mirrorLog } from "./mirror.ts";

/** Writes the output folder that scripts and auditors rely on (docs/output.md). */

export interface DeviceResult {
  readonly deviceId: string;
  readonly csr: string;
  readonly chain: string;
  /** present for devices whose chain was injected; `imagePath` is where the site keeps the image */
  readonly receipt?: Receipt;
  readonly imagePath?: string;
}

export interface PartyFiles {
  readonly id: string;
  readonly ca: string;
  readonly crl: string;
}

export interface Summary {
  readonly devices: number;
  readonly seconds: number;
  readonly devicesPerSecond: number;
  readonly parties: readonly {
    id: string;
    name: string;
    role: string;
    parent: string | null;
    origin: string;
    vkey: string;
    witnessVkey: string;
  }[];
  readonly hub: { connected: number; telemetry: number };
  readonly refused?: number;
}

export function policyFor(rootPem: string, sites: StackFile["sites"]): Policy {
  const root = parseCertificatesPem(rootPem)[0]!;
  return {
    schema: 1,
    rootSha256: sha256Hex(root.der),
    logs: Object.fromEntries(sites.map((site) => [site.id, formatPolicy(parseVkey(site.vkey))])),
  };
}

/** Ledgers, root, policy and the parties' certificates and CRLs. */
export async function writeLedgers(
  dir: string,
  stack: StackFile,
  rootPem: string,
  parties: readonly PartyFiles[],
): Promise<Policy> {
  const policy = policyFor(rootPem, stack.sites);
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, "root.pem"), rootPem);
  await writeFile(join(dir, "policy.json"), `${JSON.stringify(policy, null, 2)}\n`);
  for (const { id, ca, crl } of parties) {
    const folder = join(dir, "parties", id);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "ca.pem"), ca);
    await writeFile(join(folder, "crl.pem"), crl);
  }
  for (const site of stack.sites) {
    await mirrorLog(httpSource(`${site.publicUrl}/ledger`), join(dir, "ledger", site.id));
  }
  return policy;
}

/** One device's folder; the receipt's paths become relative to `dir`. */
export async function writeDevice(dir: string, device: DeviceResult): Promise<void> {
  const folder = join(dir, "devices", device.deviceId);
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "csr.pem"), device.csr);
  await writeFile(join(folder, "chain.pem"), device.chain);
  if (!device.receipt || !device.imagePath) return;
  await copyFile(device.imagePath, join(dir, device.receipt.image.path));
  await writeFile(join(folder, "receipt.json"), `${JSON.stringify(device.receipt, null, 2)}\n`);
}

export async function writeDevices(dir: string, devices: Iterable<DeviceResult>): Promise<void> {
  await inParallel(devices, (device) => writeDevice(dir, device));
}

export async function writeFirmware(dir: string, templates: Iterable<string>): Promise<void> {
  await mkdir(join(dir, "firmware"), { recursive: true });
  for (const path of templates) await copyFile(path, join(dir, "firmware", basename(path)));
}

/** Last, by rename: a folder with a summary is a whole one. */
export async function writeSummary(dir: string, summary: Summary): Promise<void> {
  const partial = join(dir, "summary.json.part");
  await writeFile(partial, `${JSON.stringify(summary, null, 2)}\n`);
  await rename(partial, join(dir, "summary.json"));
}
