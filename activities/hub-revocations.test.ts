import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { pemEncode } from "../lib/pki/pem.ts";
import { keyId } from "../lib/pki/spki.ts";
import { azureHub } from "../services/hub/azure/hub.ts";
import { azureHubSettings, resolveAzureHub } from "../services/hub/azure/settings.ts";
import { orderRevocation, recordRevocations, type RevocationOrder } from "../services/parties/revoke.ts";
import { storeCaCertificate } from "../store/authority.ts";
import { inTransaction } from "../store/db.ts";
import { hubsBehind, toldOf } from "../store/hub-blocks.ts";
import { insertStep, lockDeviceCertificates, type RevocationEffect } from "../store/revocations.ts";
import { AZURE, startAzureRecorder, type AzureRecorder, azureSettings } from "../test/support/azure-recorder.ts";
import { tempDir } from "../test/support/index.ts";
import {
  certifyDevices,
  lotSite,
  ownLot,
  testDevices,
  type LotSite,
  type TestDevice,
} from "../test/support/lot-site.ts";
import { testCertificate, type TestCertificate } from "../test/support/test-pki.ts";
import { hubRevocationActivities } from "./hub-revocations.ts";

/** A site with its devices, and a recorder in Azure's place: what a revocation becomes there. */

let site: LotSite;
let azure: AzureRecorder;
let devices: TestDevice[];
let child: TestCertificate;
const LOT = "azure-lot";

beforeAll(async () => {
  [site, azure, child] = await Promise.all([
    lotSite(),
    startAzureRecorder(),
    testCertificate("CN=Child CA", { ca: true, pathLength: 0 }),
  ]);
  await storeCaCertificate(site.db, { keyId: keyId(site.ca.spki), role: "ca", certificate: site.ca.der });
  devices = testDevices(11);
  await ownLot(site, LOT, devices.length);
  await certifyDevices(site, LOT, devices);
}, 60_000);
afterAll(() => Promise.all([site?.close(), azure?.close()]));
beforeEach(() => {
  azure.faults.length = 0;
  azure.requests.length = 0;
});

function activities(): { tell: () => Promise<{ left: boolean }>; faults: string[] } {
  const folder = tempDir("azure");
  const files = { "ca.pem": azure.ca.pem, secret: AZURE.secret, "hub.key": AZURE.hubKey, "dps.key": AZURE.dpsKey };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text, { mode: 0o600 });
  const settings = azureHubSettings.parse(azureSettings(azure.url));
  const hub = azureHub(resolveAzureHub(settings, (name) => join(folder, name)));
  const faults: string[] = [];
  const made = hubRevocationActivities({
    ...{ db: site.db, hubs: new Map([["azure", hub]]) },
    onFault: (_hub, subject) => void faults.push(subject),
  });
  return { tell: () => made.tellHubRevocations({ hub: "azure" }), faults };
}

const id = (index: number): string => devices[index]!.id;
async function order(index: number, effect: RevocationEffect): Promise<number[]> {
  const how: RevocationOrder = { effect, reason: "keyCompromise", by: "operator@z" };
  const { state, steps } = await orderRevocation(site.db, { id: id(index) }, how);
  expect(state).toBe("ordered");
  await record();
  return [...steps];
}
const record = () => recordRevocations({ db: site.db, acts: site.acts, actSigner: site.act });
const at = (index: number): unknown[] => [
  azure.devices.get(id(index))?.["status"],
  azure.enrollments.get(id(index))?.["provisioningStatus"],
];
const behind = () => hubsBehind(site.db, ["azure", "other"]);
const known = (index: number, status = "enabled"): void =>
  void azure.devices.set(id(index), {
    deviceId: id(index),
    status,
    etag: "x",
    authentication: { type: "certificateAuthority" },
  });

describe("a device that is taken back", () => {
  it("is disabled at the IoT Hub and at the provisioning service, once", async () => {
    known(0);
    await order(0, "final");
    expect(await behind()).toEqual(["azure", "other"]);
    const { tell } = activities();
    expect(await tell()).toEqual({ left: false });
    expect(at(0)).toEqual(["disabled", "disabled"]);
    const entry = azure.enrollments.get(id(0)) as {
      attestation: { x509: { clientCertificates: { primary: { certificate: string } } } };
    };
    expect(entry.attestation.x509.clientCertificates.primary.certificate).toContain("BEGIN CERTIFICATE");
    expect(await behind()).toEqual(["other"]);
    azure.requests.length = 0;
    await tell();
    expect(azure.requests).toEqual([]);
  });

  it("comes back when its hold is lifted, as it was found", async () => {
    const { tell } = activities();
    known(1);
    known(2, "disabled");
    azure.enrollments.set(id(1), { registrationId: id(1), etag: "x", provisioningStatus: "enabled", own: 1 });
    for (const index of [1, 2, 3]) await order(index, "hold");
    await tell();
    for (const index of [1, 2, 3]) expect(at(index)).toEqual(["disabled", "disabled"]);
    for (const index of [1, 2, 3]) await order(index, "lift");
    await tell();
    expect(at(1)).toEqual(["enabled", "enabled"]);
    expect(azure.enrollments.get(id(1))).toMatchObject({ own: 1 });
    // Somebody had disabled it before: that isn't ours to lift.
    expect(at(2)).toEqual(["disabled", undefined]);
    expect(at(3)).toEqual(["enabled", undefined]);
    // Held, and removed by an operator before it is lifted.
    await order(1, "hold");
    await tell();
    azure.devices.delete(id(1));
    azure.enrollments.delete(id(1));
    await order(1, "lift");
    await tell();
    expect(at(1)).toEqual([undefined, undefined]);
    expect(await behind()).toEqual(["other"]);
  });

  it("isn't touched by a lift of what the hub never heard of", async () => {
    known(4, "disabled");
    await order(4, "hold");
    await order(4, "lift");
    await activities().tell();
    expect(at(4)).toEqual(["disabled", undefined]);
    expect(azure.requests).toEqual([]);
  });
});

describe("an Azure that is away", () => {
  it("holds up no act, and hears of it afterwards", async () => {
    const { tell, faults } = activities();
    azure.away = true;
    known(5);
    const [step] = await order(5, "final");
    await expect(tell()).rejects.toMatchObject({ type: "component-unreachable", nonRetryable: false });
    expect(faults).toEqual([id(5)]);
    expect((await toldOf(site.db, [step!])).get(step!)).toMatchObject([
      { hub: "azure", told: null, errorCode: "component-unreachable" },
    ]);
    azure.away = false;
    await tell();
    expect(at(5)).toEqual(["disabled", "disabled"]);
    expect((await toldOf(site.db, [step!])).get(step!)).toMatchObject([{ errorCode: null }]);
  });

  it("knows its own doing again after an answer that was lost", async () => {
    const { tell } = activities();
    known(6);
    await order(6, "hold");
    const put = ({ method, path }: { method: string; path: string }) => method === "PUT" && path.endsWith(`/${id(6)}`);
    azure.faults.push({ on: put, after: true, answer: "cut" });
    await expect(tell()).rejects.toMatchObject({ type: "component-unreachable" });
    expect(azure.devices.get(id(6))).toMatchObject({ status: "disabled" });
    await tell();
    await order(6, "lift");
    await tell();
    expect(at(6)).toEqual(["enabled", undefined]);
  });

  it("is left alone for as long as it says", async () => {
    const { tell } = activities();
    await order(7, "final");
    azure.faults.push({ on: () => true, answer: { status: 429, headers: { "retry-after": "7" } } });
    await expect(tell()).rejects.toMatchObject({ type: "hub-busy", nonRetryable: false, nextRetryDelay: "7 seconds" });
    await tell();
    expect(at(7)).toEqual(["disabled", "disabled"]);
  });

  it("is tried again when it doesn't let us in, and asked less often for what it refuses", async () => {
    const { tell, faults } = activities();
    await order(8, "final");
    azure.faults.push({ on: ({ path }) => path.startsWith("/devices"), answer: { status: 401 } });
    await expect(tell()).rejects.toMatchObject({ type: "unauthorized", nonRetryable: false });
    azure.faults.push({ on: ({ path }) => path.startsWith("/devices"), answer: { status: 400 } });
    await order(9, "final");
    expect(await tell()).toEqual({ left: false });
    expect(faults).toHaveLength(2);
    expect([at(8), at(9)].filter(([status]) => status === "disabled")).toHaveLength(1);
    azure.requests.length = 0;
    await tell();
    expect(azure.requests).toEqual([]);
    expect(await behind()).toEqual(["azure", "other"]);
    await site.db.query("UPDATE hub_told SET tried = now() - interval '1 hour'");
    await tell();
    expect([at(8), at(9)].flat()).toEqual(["disabled", "disabled", "disabled", "disabled"]);
  });
});

describe("a child's CA", () => {
  let steps = 0;
  // The child's delegation would stand in this ledger; here it is any act that does.
  const step = (effect: RevocationEffect) =>
    inTransaction(site.db, async (tx) =>
      insertStep(tx, {
        target: "ca",
        subject: "child",
        subjectKeyId: "00".repeat(32),
        certificate: child.der,
        issuerKeyId: keyId(site.ca.spki),
        serial: parseCertificate(child.der).serial,
        leafHash: (await lockDeviceCertificates(tx, id(10)))[0]!.leafHash,
        step: ++steps,
        effect,
        reason: effect === "final" ? "cACompromise" : "certificateHold",
        invalidity: null,
        requestedBy: "operator@z",
      }),
    ).then(record);
  const group = () => [...azure.groups.values()];

  it("is held, lifted and revoked by a group of the provisioning service, and by its registration", async () => {
    const { tell } = activities();
    const certificates = `/subscriptions/${AZURE.subscription}/resourceGroups/${AZURE.resourceGroup}/providers/Microsoft.Devices/IotHubs/${AZURE.hub}/certificates/by-hand`;
    const thumbprint = createHash("sha1").update(child.der).digest("hex").toUpperCase();
    const entry = { name: "by-hand", etag: "x", pem: child.pem, properties: { thumbprint, isVerified: true } };
    azure.certificates.set(certificates, entry);
    await step("hold");
    await tell();
    expect(group()).toMatchObject([
      {
        provisioningStatus: "disabled",
        attestation: {
          x509: { signingCertificates: { primary: { certificate: pemEncode("CERTIFICATE", child.der) } } },
        },
      },
    ]);
    expect(azure.certificates.size).toBe(1);
    await step("lift");
    await tell();
    expect(group()).toEqual([]);
    await step("final");
    // A group there uses it: the provisioning service is told nevertheless.
    azure.faults.push({
      on: ({ method, path }) => method === "DELETE" && path === certificates,
      answer: { status: 409 },
    });
    expect(await tell()).toEqual({ left: false });
    expect(group()).toHaveLength(1);
    expect(azure.certificates.size).toBe(1);
    await site.db.query("UPDATE hub_told SET tried = now() - interval '1 hour' WHERE hub = 'azure'");
    await tell();
    expect(azure.certificates.size).toBe(0);
    expect(await behind()).toEqual(["other"]);
  });
});
