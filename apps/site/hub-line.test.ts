import { generateKeyPairSync } from "node:crypto";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fromBase64, toBase64, toHex } from "../../lib/domain/bytes.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { pemDecode, pemEncode } from "../../lib/pki/pem.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { Grant } from "../../lib/records/grant.ts";
import type { Body, Invitation } from "../../lib/records/message.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { authorityFor, planCertificate } from "../../services/issuing/authority.ts";
import { ENVELOPE_MEDIA_TYPE, readBody } from "../../services/parties/envelope.ts";
import { profileRefs } from "../../services/parties/terms.ts";
import { sha256Hex } from "../../services/ledger/sha256.ts";
import { caLabel } from "../../store/authority.ts";
import { inTransaction } from "../../store/db.ts";
import { currentGrant } from "../../store/grants.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import { insertStep } from "../../store/revocations.ts";
import { AZURE, startAzureRecorder, type AzureRecorder, azureSettings } from "../../test/support/azure-recorder.ts";
import {
  callSite,
  childSiteConfig,
  grantTo,
  invitationFrom,
  paperParent,
  selfSignedRoot,
  signChildCa,
  startChildSite,
} from "../../test/support/child-site.ts";
import { startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { type Correspondent, signedAct, type TestParty } from "../../test/support/parties.ts";
import { connectDevice } from "../device/connect.ts";
import type { HttpsServer } from "../http/server.ts";
import type { SiteConfig } from "./config.ts";
import type { Site } from "./site.ts";
import { openConfigured } from "./tokens.ts";

/**
 * A real site with its CA in SoftHSM, this program's own hub as a process, and a recorder in Azure's place. The parent
 * renews the site's CA certificate; nobody touches a hub.
 */

let hub: TestHub;
let azure: AzureRecorder;
let site: Site;
let config: SiteConfig;
let parent: TestParty;
let inbox: HttpsServer;
let letters: Correspondent;
let root: Certificate;
let asked: Body<"join">;
let askedAnew: Body<"rotation"> | undefined;
let invitation: Invitation;
/** what the parent heard of grants that weren't taken */
const refused: string[] = [];
let first: { leafHash: string; fields: Grant };

beforeAll(async () => {
  [hub, azure] = await Promise.all([startTestHub(), startAzureRecorder()]);
  ({ parent, root, letters, inbox } = await paperParent((type, body) => {
    if (type === "join") asked = readBody("join", body);
    if (type === "grant-refused") refused.push(readBody("grant-refused", body).code);
    if (type === "rotation") askedAnew = readBody("rotation", body);
  }));
  config = await writeConfig();
  site = await startChildSite(config);
  invitation = invitationFrom(parent, "7d1f0c5a-3b1e-4f3e-8f60-19d2f1a0b6c4");
}, 120_000);
afterAll(async () => {
  await site?.stop();
  await Promise.all([inbox?.close(), parent?.close(), hub?.stop(), azure?.close()]);
});

function writeConfig(): Promise<SiteConfig> {
  const home = join(hub.home, "hub");
  const secrets = {
    "azure.secret": AZURE.secret,
    "hub.key": AZURE.hubKey,
    "dps.key": AZURE.dpsKey,
    "azure-ca.pem": azure.ca.pem,
  };
  return childSiteConfig("line-y", secrets, {
    hub: {
      url: `https://127.0.0.1:${hub.apiPort}`,
      caFile: join(home, "ca.pem"),
      certFile: join(home, "operator.pem"),
      keyFile: join(home, "operator.key"),
    },
    hubs: {
      azure: azureSettings(azure.url, {
        secret: "secrets/azure.secret",
        hubKey: "secrets/hub.key",
        dpsKey: "secrets/dps.key",
        ca: "secrets/azure-ca.pem",
      }),
    },
  });
}

const signCa = () => signChildCa(parent, root, asked, { notBefore: new Date(root.notBefore) });
const terms = (certificate: Uint8Array): Grant =>
  grantTo(asked, invitation, root, { certificate: toBase64(certificate), profiles: profileRefs(["ldevid"]) });

/** Sends a grant as the parent would; whether it is taken is the site's to say. */
async function delegate(fields: Grant): Promise<{ leafHash: string; fields: Grant }> {
  const subject = [{ name: "factory-y", digest: { sha256: "0".repeat(64) } }];
  const { entry, leafHash } = await signedAct(parent, { type: "delegation", subject, prev: [], fields });
  await send({ act: toBase64(entry), upstream: [toBase64(root.der)] });
  return { leafHash, fields };
}

async function send(body: Body<"delegation">): Promise<void> {
  const { wire } = await letters.write("delegation", body);
  expect(await call("POST", "/inbox", wire, ENVELOPE_MEDIA_TYPE)).toMatchObject({ status: 200 });
}

const renewalOf = async (before: typeof first, change: Partial<Grant> = {}): Promise<Grant> => ({
  ...before.fields,
  revision: before.fields.revision + 1,
  supersedes: { origin: parent.identity.origin, leafHash: before.leafHash },
  certificate: toBase64(await signCa()),
  ...change,
});

async function grantId(): Promise<string | undefined> {
  return (await currentGrant(site.db).catch(() => undefined))?.ref.leafHash;
}

const call = (method: string, path: string, body?: unknown, type?: string) =>
  callSite(config, method, path, {
    role: "operator",
    ...(body === undefined ? {} : { body: body instanceof Uint8Array ? body : JSON.stringify(body) }),
    ...(type === undefined ? {} : { type }),
  });

interface Device {
  id: string;
  key: string;
  /** the leaf and the CA certificate that was in force when it was made */
  chain: string;
}

/** A device as the line makes it: its certificate signed by the CA's key in the token. */
async function makeDevice(id: string): Promise<Device> {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const grant = await currentGrant(site.db);
  const spki = new Uint8Array(publicKey.export({ type: "spki", format: "der" }));
  const { linted } = planCertificate(authorityFor(grant, "ldevid"), id, spki, new Date());
  const token = await openConfigured({ ...config.hsm, sessions: 1 }, config.hsm.tokens.ca!);
  try {
    const label = await caLabel(site.db, keyId(parseCertificate(grant.certificate).spki));
    const leaf = await (await token.caKey(label)).signCertificate(linted);
    const chain = [leaf, grant.certificate].map((der) => pemEncode("CERTIFICATE", der)).join("");
    return { id, key: privateKey.export({ type: "pkcs8", format: "pem" }) as string, chain };
  } finally {
    await token.close();
  }
}

const connect = ({ id, key, chain }: Device) =>
  connectDevice({
    deviceId: id,
    hub: hub.address,
    ca: hub.infraCa.pem,
    chain,
    credentials: { key },
    messages: 1,
    timeoutMs: 10_000,
  });

async function settled(path: string): Promise<unknown> {
  const look = async (): Promise<string> => (await call("GET", path)).body.state;
  await expect.poll(look, { timeout: 30_000 }).not.toBe("requested");
  return (await call("GET", path)).body;
}

async function change(kind: string, subject: string, more: object = {}): Promise<unknown> {
  const asking = { change: { kind, subject, ...more } };
  expect(await call("POST", "/api/v1/hubs/azure/changes", asking)).toMatchObject({ status: 202 });
  return settled(`/api/v1/hubs/azure/changes/${kind}/${subject}`);
}

async function registered(): Promise<string[]> {
  const { rows } = await site.db.query<{ entry: Uint8Array }>(
    "SELECT entry FROM ledger_act JOIN ledger_leaf USING (retry_key) ORDER BY leaf_index",
  );
  const acts = rows.map(({ entry }) => parseEntry(entry).act);
  return acts.flatMap((act) => (act.type === "hub-registered" ? [act.fields.hub] : [])).sort();
}

/** Of an act of this site, the last one: what a revocation of a device that isn't in a lot is made to follow. */
async function anyLeaf(): Promise<string> {
  const { size } = (await readHead(site.db))!;
  const [entry] = await readEntries(site.db, size - 1, size);
  return toHex(leafHash(entry!));
}

const azureState = () =>
  Object.fromEntries([...azure.certificates.values()].map(({ name, properties }) => [name, properties["isVerified"]]));

describe("a site's CA at its hubs", () => {
  let old: Device;
  let second: typeof first;
  let third: typeof first;

  it("has a certificate from its parent", async () => {
    expect(await call("POST", "/api/v1/joins", { invitation })).toMatchObject({ status: 202 });
    await expect.poll(() => asked, { timeout: 20_000 }).toBeDefined();
    first = await delegate(terms(await signCa()));
    await expect.poll(grantId, { timeout: 20_000 }).toBe(first.leafHash);
  }, 60_000);

  it("is registered at each by its HSM key, with one request of an operator", async () => {
    for (const name of ["embedded", "azure"]) {
      expect(await call("POST", `/api/v1/hubs/${name}/lines`, { line: "factory-y" })).toMatchObject({ status: 202 });
    }
    for (const name of ["embedded", "azure"]) {
      expect(await settled(`/api/v1/hubs/${name}/lines/factory-y`)).toMatchObject({
        state: "registered",
        name: "factory-y",
        cas: [{ name: "factory-y", state: "registered" }],
      });
    }
    expect([...azure.certificates.values()].map(({ properties }) => properties["isVerified"])).toEqual([true, true]);
    await expect
      .poll(registered, { timeout: 20_000 })
      .toEqual([
        `azure/IoT Hub ${AZURE.hub}/factory-y`,
        `azure/provisioning service ${AZURE.dps}/factory-y`,
        "embedded/the hub/factory-y",
      ]);
    old = await makeDevice("dev-old");
    await connect(old);
  }, 90_000);

  it("provisions, creates and disables devices at Azure, through a throttled answer and a lost one", async () => {
    expect(await change("put-enrollment", "lot-7", { line: "factory-y" })).toMatchObject({
      state: "done",
      answer: { name: "lot-7", cas: ["factory-y"], state: "enabled" },
    });
    azure.faults.push({
      on: ({ method, path }) => method === "PUT" && path === "/devices/dev-old",
      answer: { status: 429, headers: { "retry-after": "2" } },
    });
    const since = Date.now();
    expect(await change("create-device", "dev-old")).toMatchObject({ state: "done", answer: { state: "enabled" } });
    expect(Date.now() - since).toBeGreaterThanOrEqual(2_000);
    azure.faults.push({
      on: ({ method, path }) => method === "PUT" && path === "/devices/dev-old",
      after: true,
      answer: "cut",
    });
    expect(await change("disable-device", "dev-old")).toMatchObject({ state: "done", answer: { state: "disabled" } });
    expect(azure.devices.get("dev-old")).toMatchObject({ status: "disabled" });
    expect(await change("enable-device", "dev-none")).toMatchObject({ state: "refused", code: "not-found" });
  }, 90_000);

  it("says what it would send, and asks for no more than it may", async () => {
    const before = azure.requests.length;
    const { body } = await call("POST", "/api/v1/hubs/azure/lines", { line: "other", dryRun: true });
    expect(body.requests.map(({ method }: { method: string }) => method).join(" ")).toBe(
      "GET PUT POST POST GET PUT POST POST",
    );
    expect(azure.requests.length).toBe(before);
    for (const [path, asking] of [
      ["/api/v1/hubs/azure/changes", { change: { kind: "disable-device", subject: "../x" } }],
      ["/api/v1/hubs/azure/changes", { change: { kind: "drop-everything", subject: "x" } }],
      ["/api/v1/hubs/nowhere/lines", { line: "factory-y" }],
    ] as const) {
      expect((await call("POST", path, asking)).status).toBeGreaterThanOrEqual(400);
    }
  });

  /** The renewed CA is at both hubs, beside the first, and their acts are recorded. */
  async function registeredTwice(): Promise<void> {
    for (const name of ["embedded", "azure"]) {
      const states = async () => (await call("GET", `/api/v1/hubs/${name}/lines/factory-y`)).body.cas;
      await expect.poll(states, { timeout: 60_000 }).toMatchObject([
        { name: "factory-y", state: "registered" },
        { name: "factory-y-2", state: "registered" },
      ]);
    }
    await expect.poll(async () => (await registered()).length, { timeout: 20_000 }).toBe(6);
  }

  it("takes no renewal that changes more than its certificate and its time", async () => {
    const others: Partial<Grant>[] = [
      { revision: 3 },
      { supersedes: { origin: parent.identity.origin, leafHash: "0".repeat(64) } },
      { idPrefixes: ["dev-", "x-"] },
      { quota: 11 },
      { notAfter: "2039-01-01T00:00:00.000Z" },
    ];
    azure.faults.push({
      on: ({ method, path }) => method === "POST" && path.endsWith("/factory-y-2/verify"),
      answer: { status: 503 },
    });
    // Taken in order: had one of them been accepted, the right one below would revise another grant than the present one.
    for (const other of others) await delegate(await renewalOf(first, other));
    second = await delegate(await renewalOf(first, { notAfter: "2045-01-01T00:00:00.000Z" }));
    await expect.poll(grantId, { timeout: 30_000 }).toBe(second.leafHash);
    const { rows } = await site.db.query("SELECT 1 FROM grant_received");
    expect(rows).toHaveLength(2);
    await expect.poll(() => refused, { timeout: 20_000 }).toEqual(others.map(() => "grant-mismatch"));
  }, 120_000);

  it("takes it up again after a restore from before it, though its acceptance is in the ledger", async () => {
    // A restore finds the site stopped: its work with the hubs is over before rows are taken from under it.
    await registeredTwice();
    await inTransaction(site.db, async (tx) => {
      await tx.query("DELETE FROM grant_received WHERE leaf_hash = $1", [second.leafHash]);
      await tx.query("UPDATE grant_received SET current = true");
    });
    const { rows } = await site.db.query<{ body: Uint8Array }>(
      "SELECT body FROM inbox WHERE type = 'delegation' ORDER BY sequence DESC LIMIT 1",
    );
    expect(await grantId()).toBe(first.leafHash);
    await send(readBody("delegation", rows[0]!.body));
    await expect.poll(grantId, { timeout: 20_000 }).toBe(second.leafHash);
    expect((await call("GET", "/api/v1/parties/company-x")).body.enrolment).toEqual({
      parent: "company-x",
      state: "accepted",
    });
  }, 120_000);

  it("follows a renewal by itself: the next certificate is registered, the last one stays", async () => {
    await registeredTwice();
    expect(azureState()).toEqual({ "factory-y": true, "factory-y-2": true });
    // The groups follow once the CA is there.
    await expect
      .poll(() => azure.groups.get("lot-7"), { timeout: 20_000 })
      .toMatchObject({ attestation: { x509: { caReferences: { primary: "factory-y-2", secondary: "factory-y" } } } });
    const { body } = await hub.api("GET", "/api/v1/cas");
    expect(body["cas"]).toMatchObject([
      { name: "factory-y", state: "verified", lineage: "factory-y" },
      { name: "factory-y-2", state: "verified", lineage: "factory-y" },
    ]);

    const fresh = await makeDevice("dev-fresh");
    expect(fresh.chain.split("-----BEGIN").at(-1)).not.toBe(old.chain.split("-----BEGIN").at(-1));
    await connect(fresh);
    await connect(old);
    // Its own certificate under the renewed CA's: the chain that a device is given from now on.
    const [, leaf = ""] = old.chain.split("-----BEGIN");
    await connect({ ...old, chain: `-----BEGIN${leaf}-----BEGIN${fresh.chain.split("-----BEGIN").at(-1)}` });
  }, 150_000);

  it("follows a change of the CA's key as well: devices of both keys connect", async () => {
    expect(await call("POST", "/api/v1/rotations", {})).toMatchObject({ status: 202 });
    await expect.poll(() => askedAnew, { timeout: 20_000 }).toBeDefined();
    const { supersedes, new: request } = askedAnew!;
    expect(supersedes).toEqual({ origin: parent.identity.origin, leafHash: second.leafHash });
    const answerTo = async (asking: string): Promise<Partial<Grant>> => {
      const csr = parseCsr(fromBase64(asking));
      const made = { notBefore: new Date(root.notBefore), spki: csr.spki };
      return {
        ca: toBase64(csr.spki),
        csrSha256: sha256Hex(csr.der),
        nonceSha256: sha256Hex(csr.challengePassword!),
        certificate: toBase64(await signChildCa(parent, root, asked, made)),
      };
    };
    // The token is as it was before it made that key: what comes for it can't be taken, and the next one to be asked for is
    // another, which the parent's answer puts in the place of the grant in force as well.
    await site.db.query("UPDATE ca_rotation SET label = 'ca-4'");
    const known = refused.length;
    const lost = await delegate(await renewalOf(second, await answerTo(request)));
    await expect.poll(() => refused.length, { timeout: 20_000 }).toBe(known + 1);
    expect((await call("GET", "/api/v1/rotations")).body.rotations).toMatchObject([{ state: "refused" }]);
    askedAnew = undefined;
    expect(await call("POST", "/api/v1/rotations", {})).toMatchObject({ status: 202 });
    await expect.poll(() => askedAnew, { timeout: 20_000 }).toBeDefined();
    expect(askedAnew!.supersedes).toEqual(supersedes);
    expect(parseCsr(fromBase64(askedAnew!.new)).spki).not.toEqual(parseCsr(fromBase64(request)).spki);
    const next = {
      ...(await renewalOf(second)),
      ...(await answerTo(askedAnew!.new)),
      revision: lost.fields.revision + 1,
    };
    next.supersedes = { origin: parent.identity.origin, leafHash: lost.leafHash };
    // Nobody's key but the one that was made for it, and for nothing but it.
    const { spki } = parent.identity.act;
    const stolen = await signChildCa(parent, root, asked, { notBefore: new Date(root.notBefore), spki });
    await delegate({ ...next, ca: toBase64(spki), certificate: toBase64(stolen) });
    await delegate({ ...next, nonceSha256: "0".repeat(64) });
    await delegate({ ...next, quota: 11 });
    third = await delegate(next);
    await expect.poll(grantId, { timeout: 30_000 }).toBe(third.leafHash);

    for (const name of ["embedded", "azure"]) {
      const states = async () => (await call("GET", `/api/v1/hubs/${name}/lines/factory-y`)).body.cas;
      await expect
        .poll(states, { timeout: 60_000 })
        .toMatchObject([{}, {}, { name: "factory-y-3", state: "registered" }]);
    }
    expect(azureState()).toEqual({ "factory-y": true, "factory-y-2": true, "factory-y-3": true });
    // The groups follow once the CA is there.
    await expect
      .poll(() => azure.groups.get("lot-7"), { timeout: 20_000 })
      .toMatchObject({ attestation: { x509: { caReferences: { primary: "factory-y-3", secondary: "factory-y-2" } } } });
    const { body } = await hub.api("GET", "/api/v1/cas");
    expect(body["cas"]).toMatchObject([{}, {}, { name: "factory-y-3", state: "verified", lineage: "factory-y" }]);
    const fresh = await makeDevice("dev-new-key");
    await connect(fresh);
    await connect(old);
    const { body: rotations } = await call("GET", "/api/v1/rotations");
    expect(rotations).toMatchObject({
      keys: [
        { label: "ca", present: false },
        { label: "ca-4", present: true },
      ],
      rotations: [{ state: "accepted" }],
    });
    // Both keys' CRLs are there, and say when they end.
    const { body: ends } = await call("GET", "/api/v1/expiring");
    expect(ends.items.filter(({ what }: { what: string }) => what === "crl")).toHaveLength(2);
    const { body: cas } = await call("GET", "/api/v1/ca-certificates");
    expect(cas.cas).toHaveLength(2);
  }, 150_000);

  it("says when what it stands on ends", async () => {
    const { body } = await call("GET", "/api/v1/expiring");
    expect(body.items).toContainEqual({
      what: "grant",
      subject: "factory-y",
      notAfter: "2045-01-01T00:00:00.000Z",
      alert: null,
    });
    expect(body.items.map(({ what }: { what: string }) => what)).toEqual(
      expect.arrayContaining(["ca", "crl", "issuer", "infrastructure-ca"]),
    );
  });

  it("keeps a device out at Azure by itself; Azure being away holds up neither the act nor the CRL", async () => {
    const lost = await makeDevice("dev-lost");
    expect(await change("create-device", "dev-lost")).toMatchObject({ state: "done" });
    const certificate = parseCertificate(pemDecode(lost.chain, "CERTIFICATE")[0]!);
    const { certificate: ca } = await currentGrant(site.db);
    const act = await anyLeaf();
    azure.away = true;
    // As an operator's order leaves it; this device is in no lot.
    const { id } = await inTransaction(site.db, (tx) =>
      insertStep(tx, {
        ...{
          target: "device",
          subject: "dev-lost",
          subjectKeyId: keyId(certificate.spki),
          certificate: certificate.der,
        },
        ...{ issuerKeyId: keyId(parseCertificate(ca).spki), serial: certificate.serial, leafHash: act },
        ...{ step: 1, effect: "hold", reason: "certificateHold", invalidity: null, requestedBy: "operator@factory-y" },
      }),
    );
    const step = async () => (await call("GET", `/api/v1/revocations?steps=${id}`)).body.revocations[0];
    await expect
      .poll(async () => (await step()).hubs, { timeout: 30_000 })
      .toMatchObject([{ hub: "azure", told: null, error: { code: "component-unreachable" } }]);
    await expect.poll(async () => (await step()).crlNumber, { timeout: 20_000 }).not.toBeNull();
    expect(azure.devices.get("dev-lost")).toMatchObject({ status: "enabled" });
    azure.away = false;
    await expect.poll(() => azure.devices.get("dev-lost")?.["status"], { timeout: 30_000 }).toBe("disabled");
    await expect
      .poll(async () => (await step()).hubs, { timeout: 20_000 })
      .toMatchObject([{ hub: "azure", told: expect.any(String) as string }]);
    expect(azure.enrollments.get("dev-lost")).toMatchObject({ provisioningStatus: "disabled" });
  }, 90_000);

  it("lets an operator retire the last certificate, once no device needs it", async () => {
    expect(await change("put-enrollment", "lot-7", { line: "factory-y" })).toMatchObject({ state: "done" });
    expect(await change("remove-ca", "factory-y")).toMatchObject({ state: "done", answer: { removed: true } });
    expect(azureState()).toEqual({ "factory-y-2": true, "factory-y-3": true });
  }, 60_000);

  it("goes on from the last certificate that a hub has, where it refused one", async () => {
    const other = await selfSignedRoot(parent, "Somebody else's");
    const taken = { name: "factory-y-4", certificate: pemEncode("CERTIFICATE", other.der) };
    expect(await hub.api("POST", "/api/v1/cas", taken)).toMatchObject({ status: 201 });
    const cas = async (name: string) => (await call("GET", `/api/v1/hubs/${name}/lines/factory-y`)).body.cas.slice(3);
    // For the key that took the first one's place.
    const { spki } = parseCertificate(fromBase64(third.fields.certificate));
    const notBefore = new Date(root.notBefore);
    const anew = async () => ({ certificate: toBase64(await signChildCa(parent, root, asked, { notBefore, spki })) });
    const fourth = await delegate(await renewalOf(third, await anew()));
    const registered = { name: "factory-y-4", state: "registered" };
    await expect.poll(() => cas("embedded"), { timeout: 30_000 }).toMatchObject([{ state: "refused" }]);
    await expect.poll(() => cas("azure"), { timeout: 30_000 }).toMatchObject([registered]);
    await delegate(await renewalOf(fourth, await anew()));
    const next = { name: "factory-y-5", state: "registered" };
    await expect.poll(() => cas("embedded"), { timeout: 30_000 }).toMatchObject([{ state: "refused" }, next]);
    await expect.poll(() => cas("azure"), { timeout: 30_000 }).toMatchObject([registered, next]);
    expect((await hub.api("GET", "/api/v1/cas/factory-y-5")).body).toMatchObject({ lineage: "factory-y" });
    await connect(await makeDevice("dev-fifth"));
  }, 120_000);
});
