import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir } from "node:fs/promises";
import { join, normalize } from "node:path";
import type { AuditResult } from "../../../lib/ledger/audit/ledgers.ts";
import type { Finding } from "../../../lib/ledger/audit/finding.ts";
import { concatBytes, equalBytes } from "../../../lib/domain/bytes.ts";
import { isCountersignError } from "../../../lib/domain/errors.ts";
import { canonicalJson } from "../../../lib/domain/json.ts";
import { parseCertificatesPem } from "../../../lib/pki/certificate.ts";
import { pemDecode } from "../../../lib/pki/pem.ts";
import { receipt as receiptSchema } from "../../../lib/records/receipt.ts";
import { DEVICE_ID } from "../../../lib/domain/ids.ts";
import { readText } from "./folder.ts";

/** What lies beside the ledgers in an output folder must be what the ledgers say it is. */
export async function checkDeviceFiles(dir: string, result: AuditResult): Promise<Finding[]> {
  const findings: Finding[] = await checkPartyFiles(dir, result);
  let names: string[];
  try {
    names = await readdir(join(dir, "devices"));
  } catch {
    return findings;
  }
  for (const name of names) {
    const complain = (message: string): void => {
      findings.push({ severity: "error", code: "file-mismatch", party: "-", subject: name, message });
    };
    const device = result.devices.get(name);
    if (!DEVICE_ID.test(name) || !device) {
      complain(`devices/${name}: no ledger knows this device`);
      continue;
    }
    try {
      const folder = join(dir, "devices", name);
      const csr = await readText(join(folder, "csr.pem"));
      if (csr && sha256(pemDecode(csr, "CERTIFICATE REQUEST")[0] ?? new Uint8Array()) !== device.csrSha256) {
        complain("csr.pem is not the request that was logged");
      }
      const chain = await readText(join(folder, "chain.pem"));
      if (chain) await checkChain(chain, name, result, complain);
      const receipt = await readText(join(folder, "receipt.json"));
      const described = receipt ? await checkReceipt(dir, receipt, result, name, complain) : undefined;
      for (const file of await readdir(folder)) {
        const path = `devices/${name}/${file}`;
        if (file.startsWith("image.") && path !== described) complain(`${file} is an image that no receipt describes`);
      }
    } catch (error) {
      complain(isCountersignError(error) ? error.message : `its files can't be read: ${String(error)}`);
    }
  }
  return findings;
}

/** A party's CA certificate beside the ledgers is the one that its grant (or the ceremony) holds. */
async function checkPartyFiles(dir: string, result: AuditResult): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const { id, chain } of result.parties.values()) {
    const pem = await readText(join(dir, "parties", id, "ca.pem"));
    if (pem === undefined) continue;
    try {
      const [ca, more] = parseCertificatesPem(pem);
      if (ca && !more && chain[0] && equalBytes(ca.der, chain[0].der)) continue;
    } catch (error) {
      if (!isCountersignError(error)) throw error;
    }
    const message = "ca.pem is not the certificate that was granted to the party";
    findings.push({ severity: "error", code: "file-mismatch", party: id, message });
  }
  return findings;
}

async function checkChain(
  pem: string,
  name: string,
  result: AuditResult,
  complain: (message: string) => void,
): Promise<void> {
  const chain = parseCertificatesPem(pem);
  const logged = result.devices.get(name)?.certificateSha256;
  if (!logged || !chain[0] || sha256(chain[0].der) !== logged)
    return complain("chain.pem's certificate is not the one that was logged");
  // Those it was certified under: its issuer's CA may have been renewed since, or have another key.
  const granted = result.devices.get(name)?.chainSha256("der");
  if (sha256(concatBytes(...chain.map(({ der }) => der))) !== granted)
    complain("chain.pem's issuers are not those that were granted");
}

async function checkReceipt(
  dir: string,
  text: string,
  result: AuditResult,
  name: string,
  complain: (message: string) => void,
): Promise<string | undefined> {
  const receipt = receiptSchema.parse(JSON.parse(text));
  const device = result.devices.get(name);
  if (!device?.injected) {
    complain("there is a receipt, but no injection was logged");
    return undefined;
  }
  // Its digests are those of files that lie beside it: whoever changed them changed it too. The ledger's word counts.
  if (sha256(canonicalJson(receipt)) !== device.receiptSha256) complain("receipt.json is not the one that was logged");
  for (const file of [receipt.image, receipt.original]) {
    const path = normalize(file.path);
    if (path.startsWith("..") || path.startsWith("/")) {
      complain("receipt.json names a file outside the folder");
      return undefined;
    }
    if ((await sha256File(join(dir, path))) !== file.sha256)
      complain(`${file.path} is not the file that the receipt describes`);
  }
  return normalize(receipt.image.path);
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function sha256File(path: string): Promise<string | undefined> {
  const hash = createHash("sha256");
  try {
    for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  } catch {
    return undefined;
  }
  return hash.digest("hex");
}
