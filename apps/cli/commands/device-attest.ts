import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { fromBase64, toBase64 } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { pemDecode } from "../../../lib/pki/pem.ts";
import { attestFromTray } from "../../device/tpm/tray-attest.ts";
import { openTray } from "../../device/tray.ts";
import { print, printJson } from "../output.ts";
import { SiteClient } from "../site-client.ts";

interface AttestOptions {
  tokenDir: string;
  id: string;
  lot: string;
  site: string;
  ekChain?: string;
  json?: boolean;
}

interface Challenge {
  challenge: string;
  nonce: string;
  idObject: string;
  encryptedSecret: string;
}

/** `countersign device attest`: what a lot with `--attest` asks of a device before its certificate. */
export function registerAttest(device: Command): void {
  device
    .command("attest")
    .description("have the device's TPM 2 certify its key to the site that certifies its lot")
    .requiredOption("--token-dir <dir>", "the device's folder, made by `device keygen --tpm`")
    .requiredOption("--id <id>", "device ID")
    .requiredOption("--lot <id>", "its lot")
    .option("--site <id>", "the site that certifies", "technician-z")
    .option("--ek-chain <file>", "the TPM vendor's CAs between the TPM's certificate and the root, PEM")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  countersign device attest --token-dir my-tpm --id dev-0002 --lot lot-9 --ek-chain vendor-ca.pem\n",
    )
    .action(async (options: AttestOptions) => {
      const between = await vendorCas(options.ekChain);
      const tray = openTray(options.tokenDir);
      const client = await SiteClient.open(options.site, { role: "station" });
      const path = `/api/v1/lots/${encodeURIComponent(options.lot)}/attestations`;
      try {
        const attested = await attestFromTray(tray, options.id, {
          challenge: async ({ ekCertificate, akPublic }) => {
            const ekCertificates = [ekCertificate, ...between].map(toBase64);
            const asked = { deviceId: options.id, ekCertificates, akPublic: toBase64(akPublic) };
            const { challenge: id, ...given } = await client.post<Challenge>(path, asked);
            const { nonce, idObject, encryptedSecret } = given;
            return {
              id,
              nonce: fromBase64(nonce),
              idObject: fromBase64(idObject),
              encryptedSecret: fromBase64(encryptedSecret),
            };
          },
          answer: (id, { secret, key, attest, signature }) =>
            client.post<{ deviceId: string; evidence: string }>(`${path}/${id}`, {
              secret: toBase64(secret),
              akParents: [],
              key: { public: toBase64(key.publicArea), parents: key.parents.map(toBase64) },
              attest: toBase64(attest),
              signature: toBase64(signature),
            }),
        });
        if (options.json) return printJson(attested);
        print(`${attested.deviceId}: attested, evidence ${attested.evidence}`);
      } finally {
        client.close();
      }
    });
}

async function vendorCas(file: string | undefined): Promise<Uint8Array[]> {
  if (file === undefined) return [];
  const pem = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new CountersignError("usage", `can't read ${file}`, { cause });
  });
  return pemDecode(pem, "CERTIFICATE");
}
