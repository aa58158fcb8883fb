import { mkdirSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { submitCsrs } from "../../services/intake/submit.ts";
import { recordBuilt } from "../../services/issuing/built.ts";
import { issueBatch } from "../../services/issuing/certify.ts";
import { lotWorkflowId } from "../../services/issuing/context.ts";
import { batchAnswers } from "../../store/batches.ts";
import { countersign } from "../../test/scenarios/countersign.ts";
import { tempDir } from "../../test/support/index.ts";
import { issue, pem, throwawayKey } from "../../test/support/issuing.ts";
import { lotSite, ownLot, type LotSite } from "../../test/support/lot-site.ts";
import { softTpm, type SoftTpm } from "../../test/support/swtpm.ts";
import { SiteClient } from "../cli/site-client.ts";
import { csrManifest } from "../cli/station-key.ts";
import { openTray } from "../device/tray.ts";
import { type MadeDevice, type MakeOutcome, runInTray } from "../device/tray-process.ts";
import { createLogger } from "../http/logger.ts";
import { createServer, type HttpsServer } from "../http/server.ts";
import { registerAttestations } from "./routes/attestations.ts";
import type { LotDeps } from "./routes/lot-deps.ts";

/** A device with a TPM, its command, a station's certificate, the gateway's routes, and the site behind them. */

const PARTY = "technician-z";
const ID = "dev-attested";

let site: LotSite;
let soft: SoftTpm;
let app: HttpsServer;
let home: string;
beforeAll(async () => {
  [site, soft] = await Promise.all([lotSite({ party: PARTY }), softTpm()]);
  home = tempDir("home");
  const infra = join(home, PARTY, "infra");
  mkdirSync(infra, { recursive: true });
  const clientCa = pem(site.infrastructure.certificate);
  writeFileSync(join(infra, "ca.pem"), clientCa);
  for (const role of ["operator", "station", "technician"]) {
    const client = site.client(role);
    writeFileSync(join(infra, `${role}.pem`), client.pem);
    writeFileSync(join(infra, `${role}.key`), client.keyPem, { mode: 0o600 });
  }
  const key = throwawayKey();
  const san = [{ kind: "ip" as const, value: Uint8Array.of(127, 0, 0, 1) }];
  const server = issue(site.infrastructure, "server", { commonName: "gateway" }, key.spki, { san });
  app = createServer({
    tls: { key: String(key.privateKey.export({ type: "pkcs8", format: "pem" })), cert: pem(server), clientCa },
    logger: createLogger({ name: "test", level: "silent" }),
  });
  registerAttestations(app, { custody: site.custody } as LotDeps);
  await app.listen({ host: "127.0.0.1", port: 0 });
  const url = `https://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
  writeFileSync(join(home, PARTY, "site.json"), JSON.stringify({ party: PARTY, gateway: { url } }));
}, 60_000);
afterAll(async () => {
  await app?.close();
  await soft?.stop();
  await site?.close();
});

async function post(kind: "built" | "certify", lot: string, csr: Uint8Array) {
  const { id } = await submitCsrs(site.intake, lot, await csrManifest(site.client("station"), kind, lot, [csr]), [csr]);
  await (kind === "built" ? recordBuilt : issueBatch)(site.issuing, id);
  return (await batchAnswers(site.db, id)).answers[0]!;
}

it("attests the key that a device made by PKCS#11, and lets it be certified", { timeout: 120_000 }, async () => {
  await ownLot(site, "lot-tpm", 5, PARTY, {
    attestation: { kind: "tpm2", vendorRoots: [toBase64(soft.vendor.root())] },
  });
  const dir = join(tempDir("attested"), "tpm");
  const tray = openTray(dir, { create: true, tpm: soft.tcti });
  const outcomes: MadeDevice[] = [];
  const job = { kind: "make" as const, tray: dir, devices: [ID], makeKeys: true };
  await runInTray(tray, job, (outcome: MakeOutcome) => "csr" in outcome && outcomes.push(outcome));
  const made = outcomes[0]!;
  const { der } = parseCsr(made.csr);
  expect(await post("built", "lot-tpm", der)).toMatchObject({ code: null });

  const vendor = join(dir, "vendor.pem");
  writeFileSync(vendor, pemEncode("CERTIFICATE", soft.vendor.issuer()));
  const command = ["device", "attest", "--token-dir", dir, "--id", ID, "--lot", "lot-tpm", "--site", PARTY];
  const env = { COUNTERSIGN_HOME: home };
  const { code, stdout, stderr } = await countersign([...command, "--ek-chain", vendor, "--json"], env);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const { deviceId, evidence } = JSON.parse(stdout);
  expect(deviceId).toBe(ID);
  const entry = await site.acts.find(lotWorkflowId("lot-tpm"), `attested/${ID}`);
  expect(parseEntry(entry!.entry).act).toMatchObject({
    subject: [{ name: ID, digest: { sha256: made.keyId } }],
    fields: { evidence },
  });
  expect(await post("certify", "lot-tpm", der)).toMatchObject({ code: null, certificate: expect.anything() });

  const again = await countersign([...command, "--ek-chain", vendor], env);
  expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining("[already-exists]") });
});

it("is a station's business, in requests of the right form", async () => {
  const [station, technician] = await Promise.all(
    (["station", "technician"] as const).map((role) => SiteClient.open(PARTY, { home, role })),
  );
  try {
    const path = "/api/v1/lots/lot-tpm/attestations";
    const body = { deviceId: ID, ekCertificates: ["AAAA"], akPublic: "AAAA" };
    await expect(technician!.post(path, body)).rejects.toMatchObject({ code: "unauthorized" });
    const bad: [unknown, string][] = [
      [{ ...body, more: 1 }, "input-invalid"],
      [{ ...body, ekCertificates: [] }, "input-invalid"],
      [{ ...body, akPublic: "!" }, "input-invalid"],
      [body, "attestation-malformed"],
    ];
    for (const [request, code] of bad) await expect(station!.post(path, request)).rejects.toMatchObject({ code });
    const answer = {
      secret: "AAAA",
      akParents: [],
      key: { public: "AAAA", parents: [] },
      attest: "AAAA",
      signature: "AAAA",
    };
    await expect(station!.post(`${path}/${"0".repeat(32)}`, answer)).rejects.toMatchObject({
      code: "attestation-unasked",
    });
    await expect(station!.post(`${path}/x`, answer)).rejects.toMatchObject({ code: "input-invalid" });
  } finally {
    for (const client of [station, technician]) client!.close();
  }
});
