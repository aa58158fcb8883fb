import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { csrManifest } from "../cli/station-key.ts";
import { fromBase64 } from "../../lib/domain/bytes.ts";
import { issuerFromCertificate, validityFor } from "../../lib/pki/issuer.ts";
import { lintTbs } from "../../lib/pki/lint.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { submitCsrs } from "../../services/intake/submit.ts";
import { recordBuilt } from "../../services/issuing/built.ts";
import { issueBatch } from "../../services/issuing/certify.ts";
import { batchAnswers } from "../../store/batches.ts";
import { connect, type Db } from "../../store/db.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import { startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { tempDir } from "../../test/support/index.ts";
import { issue, pem, throwawayKey, type ThrowawayKey } from "../../test/support/issuing.ts";
import { lotSite, ownLot, testDevice, type LotSite } from "../../test/support/lot-site.ts";
import { connectDevice } from "../device/connect.ts";
import { registerReconcile } from "../gateway/routes/reconcile.ts";
import { createLogger } from "../http/logger.ts";
import { createServer, type HttpsServer } from "../http/server.ts";

/** The real hub, told to report to a site over TLS; the site has its token, its database and its ledger. */

let site: LotSite;
let hub: TestHub;
let hubDb: Db;
let app: HttpsServer;
let port = 0;

async function openGateway(): Promise<void> {
  const key = throwawayKey();
  const san = [{ kind: "ip" as const, value: Uint8Array.of(127, 0, 0, 1) }];
  const server = issue(site.infrastructure, "server", { commonName: "gateway" }, key.spki, { san });
  app = createServer({
    tls: { key: pkcs8(key), cert: pem(server), clientCa: pem(site.infrastructure.certificate) },
    logger: createLogger({ name: "test", level: "silent" }),
  });
  registerReconcile(app, { ...site.issuing, actSigner: site.act });
  await app.listen({ host: "127.0.0.1", port });
  ({ port } = app.server.address() as AddressInfo);
}
const pkcs8 = (key: ThrowawayKey): string => String(key.privateKey.export({ type: "pkcs8", format: "pem" }));

beforeAll(async () => {
  site = await lotSite({ party: "technician-z" });
  await openGateway();
  const folder = tempDir("monitor");
  const monitor = site.client("monitor");
  const files = { "ca.pem": pem(site.infrastructure.certificate), "cert.pem": monitor.pem, "key.pem": monitor.keyPem };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text, { mode: 0o600 });
  const at = (name: string) => join(folder, name);
  const report = [{ url: `https://127.0.0.1:${port}`, ca: at("ca.pem"), cert: at("cert.pem"), key: at("key.pem") }];
  hub = await startTestHub({}, { report });
  hubDb = connect(hub.databaseUrl);
  const { code } = (await hub.api("POST", "/api/v1/cas", { name: "company-x" })).body;
  const verification = issue(site.root, "hub-verification", { commonName: String(code) }, throwawayKey().spki);
  const proof = { ca: pem(site.root.certificate), verification: pem(verification) };
  expect((await hub.api("POST", "/api/v1/cas/company-x/verify", proof)).status).toBe(200);
}, 60_000);
afterAll(async () => {
  await hubDb?.end();
  await hub?.stop();
  await app?.close();
  await site?.close();
});

async function visit(id: string, key: ThrowawayKey, certificate: Uint8Array): Promise<void> {
  await connectDevice({
    deviceId: id,
    hub: hub.address,
    ca: hub.infraCa.pem,
    chain: pem(certificate, site.ca),
    credentials: { key: pkcs8(key) },
    messages: 1,
    timeoutMs: 10_000,
  });
}

/** What whoever has the token's PIN can do: linted, and past the ledger. */
async function behindTheLedger(id: string, key: ThrowawayKey): Promise<Uint8Array> {
  const profile = profileNamed("ldevid");
  const issuer = issuerFromCertificate(site.ca);
  const validity = validityFor(profile, new Date(), issuer);
  const serial = newSerial((length) => randomBytes(length));
  const { spki } = key;
  const tbs = buildTbs(profile, { issuer, serial, ...validity, subject: { commonName: id }, spki, crlUrl: undefined });
  const token = await site.anotherSession();
  try {
    return await (await token.caKey("ca")).signCertificate(lintTbs(tbs, profile, issuer));
  } finally {
    await token.close();
  }
}

async function issued(lot: string, id: string, key: ThrowawayKey): Promise<Uint8Array> {
  const { csr } = testDevice(id, key);
  await ownLot(site, lot, 1);
  const post = async (kind: "built" | "certify") =>
    (await submitCsrs(site.intake, lot, await csrManifest(site.client("station"), kind, lot, [csr]), [csr])).id;
  await recordBuilt(site.issuing, await post("built"));
  const batch = await post("certify");
  await issueBatch(site.issuing, batch);
  return (await batchAnswers(site.db, batch)).answers[0]!.certificate!;
}

async function alarms(): Promise<string[]> {
  const { size } = (await readHead(site.db))!;
  const acts = (await readEntries(site.db, 0, size)).map((entry) => parseEntry(entry).act);
  return acts.flatMap((act) =>
    act.type === "alarm" && "certificate" in act.fields.evidence ? [act.fields.evidence.certificate] : [],
  );
}

async function sightings(): Promise<(string | null)[]> {
  const { rows } = await hubDb.query<{ state: string | null }>("SELECT state FROM hub_sighting ORDER BY seen_at");
  return rows.map((row) => row.state);
}

async function until(what: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 15_000;
  while (!(await what())) {
    if (Date.now() > deadline) throw new Error("waited in vain");
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

it("a device of the ledger is reported and known; its CA, of another's key, stays unreported", async () => {
  const key = throwawayKey();
  await visit("dev-honest", key, await issued("lot-hub", "dev-honest", key));
  await until(async () => (await sightings()).includes("known"));
  expect((await sightings()).filter((state) => state === null)).toHaveLength(1);
  expect(await alarms()).toEqual([]);
});

it("a certificate signed behind the site's back connects, and an alarm act says so, once", async () => {
  const key = throwawayKey();
  const stolen = await behindTheLedger("dev-clone", key);
  await visit("dev-clone", key, stolen);
  await until(async () => (await alarms()).length > 0);
  await visit("dev-clone", key, stolen);
  expect((await alarms()).map((text) => Buffer.from(fromBase64(text)))).toEqual([Buffer.from(stolen)]);
});

it("also one that isn't let in, because its ID is another device's", async () => {
  const key = throwawayKey();
  const stolen = await behindTheLedger("dev-honest", key);
  await expect(visit("dev-honest", key, stolen)).rejects.toMatchObject({ code: "hub-refused" });
  await until(async () => (await alarms()).length === 2);
});

it("what is seen while the site is away is reported when it is back, even by the next hub process", async () => {
  await app.close();
  const key = throwawayKey();
  const since = performance.now();
  await visit("dev-later", key, await behindTheLedger("dev-later", key));
  expect(performance.now() - since).toBeLessThan(5_000);
  await until(async () => (await sightings()).filter((state) => state === null).length === 2);
  await hub.crashAndRestart();
  await openGateway();
  await until(async () => (await alarms()).length === 3);
});

it("what a site can't read at all is told in the log, and holds up nothing else", async () => {
  await hubDb.query("INSERT INTO hub_sighting (sha256, issuer_key_id, certificate) VALUES ('spoiled', $1, '\\x3000')", [
    keyId(site.ca.spki),
  ]);
  const key = throwawayKey();
  await visit("dev-beside", key, await behindTheLedger("dev-beside", key));
  await until(async () => (await alarms()).length === 4);
  await until(async () => (await sightings()).filter((state) => state === null).length === 2);
});

it("a monitor may report, and do nothing else", async () => {
  const { pem: cert, keyPem } = site.client("monitor");
  const { exchange } = await import("../../services/exchange.ts");
  const ask = async (method: string, path: string) => {
    const url = new URL(path, `https://127.0.0.1:${port}`);
    const tls = { ca: pem(site.infrastructure.certificate), cert, key: keyPem };
    const body = {
      bytes: JSON.stringify({ certificates: pemEncode("CERTIFICATE", site.ca.der) }),
      type: "application/json",
    };
    const bounds = { timeoutMs: 5_000, maxAnswerBytes: 1 << 16 };
    return (await exchange({ url, method, tls, body: method === "GET" ? undefined : body, ...bounds })).status;
  };
  expect(await ask("GET", "/api/v1/ca-keys")).toBe(200);
  expect(await ask("POST", "/api/v1/seen")).toBe(200);
  expect(await ask("POST", "/api/v1/reconciliations")).toBe(401);
});
