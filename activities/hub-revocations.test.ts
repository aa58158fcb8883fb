import { createHash } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { pemEncode } from "../lib/pki/pem.ts";
import { keyId } from "../lib/pki/spki.ts";
import { followRevocation } from "../services/hub/keep-out.ts";
import { orderRevocation, recordRevocations, type RevocationOrder } from "../services/parties/revoke.ts";
import { storeCaCertificate } from "../store/authority.ts";
import { inTransaction } from "../store/db.ts";
import { claimForHandoff, insertHandoff } from "../store/handoffs.ts";
import { hubsBehind, toldOf } from "../store/hub-blocks.ts";
import { insertStep, lockDeviceCertificates, type RevocationEffect } from "../store/revocations.ts";
import { AZURE, recorderHub, startAzureRecorder, type AzureRecorder } from "../test/support/azure-recorder.ts";
import {
  buildDevices,
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
  devices = testDevices(15);
  await ownLot(site, LOT, devices.length);
  await certifyDevices(site, LOT, devices);
}, 60_000);
afterAll(() => Promise.all([site?.close(), azure?.close()]));
beforeEach(() => {
  azure.faults.length = 0;
  azure.requests.length = 0;
});

function activities(): { tell: () => Promise<{ left: boolean }>; faults: string[] } {
  const faults: string[] = [];
  const made = hubRevocationActivities({
    ...{ db: site.db, hubs: new Map([["azure", recorderHub(azure)]]) },
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
  const stepsOf = new Map<string, number>();
  // The child's delegation would stand in this ledger; here it is any act that does.
  const step = (effect: RevocationEffect, name = "child", leafOf = 10) =>
    inTransaction(site.db, async (tx) =>
      insertStep(tx, {
        target: name.startsWith("child") ? "ca" : "device",
        subject: name,
        subjectKeyId: "00".repeat(32),
        certificate: child.der,
        issuerKeyId: keyId(site.ca.spki),
        serial: parseCertificate(child.der).serial,
        leafHash: (await lockDeviceCertificates(tx, id(leafOf)))[0]!.leafHash,
        step: stepsOf.set(name, (stepsOf.get(name) ?? 0) + 1).get(name)!,
        effect,
        reason: effect === "final" ? "cACompromise" : "certificateHold",
        invalidity: null,
        requestedBy: "operator@z",
      }),
    ).then(record);
  const group = () => [...azure.groups.values()];
  const status = (device: string): unknown => azure.devices.get(device)?.["status"];
  const enable = (device: string, was = "enabled") =>
    void azure.devices.set(device, {
      ...{ deviceId: device, status: was, etag: "x", authentication: { type: "certificateAuthority" } },
    });
  const puts = () => azure.requests.filter(({ method, path }) => method === "PUT" && path.startsWith("/devices/"));

  /** Devices that left for `peer`, as a handoff leaves them. */
  async function givenTo(peer: string, some: readonly TestDevice[]): Promise<void> {
    const lot = `lot-of-${peer}`;
    await ownLot(site, lot, some.length);
    await buildDevices(site, lot, some);
    await inTransaction(site.db, async (tx) => {
      await insertHandoff(tx, {
        ...{ id: `to-${peer}`, direction: "out", lot, peer, state: "releasing", count: some.length },
        ...{ listRoot: "0".repeat(64), list: new Uint8Array(1), terms: {}, time: new Date() },
      });
      await claimForHandoff(
        tx,
        `to-${peer}`,
        some.map((device) => device.id),
      );
    });
  }

  it("takes the devices that it was given with it, those that are there, and gives back what was taken", async () => {
    const given = testDevices(6);
    const ids = given.map((device) => device.id);
    const [in1, in2, , off, own, late] = ids as [string, string, string, string, string, string];
    await givenTo("child-b", given);
    for (const device of [in1, in2, own, id(4)]) enable(device);
    enable(off, "disabled");
    const { tell } = activities();
    await step("hold", "child-b", 11);
    // A lost answer, then a throttled one: what was done is known, and not done twice.
    const put =
      (name: string) =>
      ({ method, path }: { method: string; path: string }) =>
        method === "PUT" && path.endsWith(`/${name}`);
    azure.faults.push({ on: put(in1), after: true, answer: "cut" });
    await expect(tell()).rejects.toMatchObject({ type: "component-unreachable" });
    azure.faults.push({ on: put(in2), answer: { status: 429, headers: { "retry-after": "3" } } });
    await expect(tell()).rejects.toMatchObject({ type: "hub-busy", nextRetryDelay: "3 seconds" });
    expect([status(in1), status(in2)]).toEqual(["disabled", "enabled"]);
    azure.requests.length = 0;
    expect(await tell()).toEqual({ left: false });
    expect(ids.map(status)).toEqual(["disabled", "disabled", undefined, "disabled", "disabled", undefined]);
    expect(status(id(4))).toBe("enabled");
    expect(puts().map(({ path }) => path)).toEqual([in2, own].map((name) => `/devices/${name}`));

    // One that another act keeps out stays out, whichever is lifted first.
    enable(late);
    await step("hold", own, 13);
    await tell();
    await step("lift", own, 13);
    await tell();
    expect(status(own)).toBe("disabled");
    await step("hold", in2, 14);
    await tell();
    await step("lift", "child-b", 11);
    expect(await tell()).toEqual({ left: false });
    expect(ids.map(status)).toEqual(["enabled", "disabled", undefined, "disabled", "enabled", "enabled"]);
    await step("lift", in2, 14);
    await tell();
    expect(status(in2)).toBe("enabled");
    const { rows } = await site.db.query("SELECT FROM hub_block WHERE name = ANY($1) AND kind = 'device'", [ids]);
    expect(rows).toEqual([]);
  });

  it("has its devices taken as long as there is time, one that is refused apart, and the rest the next time", async () => {
    const given = testDevices(70);
    await givenTo("child-c", given);
    const ids = given.map((device) => device.id).sort();
    for (const device of ids.slice(0, 4)) enable(device);
    await step("final", "child-c", 12);
    azure.faults.push({
      on: ({ method, path }) => method === "PUT" && path.endsWith(`/${ids[1]}`),
      answer: { status: 400 },
    });
    const hub = recorderHub(azure);
    const follow = (until?: number) =>
      followRevocation(site.db, "azure", hub, { target: "ca", subject: "child-c" }, until);
    expect(await follow(Date.now() - 1)).toEqual({ left: true });
    expect(puts()).toEqual([]);
    await expect(follow()).rejects.toMatchObject({ code: "hub-refused" });
    expect(ids.slice(0, 4).map(status)).toEqual(["disabled", "enabled", "disabled", "disabled"]);
    azure.requests.length = 0;
    expect(await follow()).toEqual({ left: false });
    expect(status(ids[1]!)).toBe("disabled");
    expect(azure.requests.filter(({ path }) => path.startsWith("/devices/"))).toHaveLength(3);
    // None is made of those that were never there.
    expect(azure.devices.size).toBeLessThan(30);
    expect(await activities().tell()).toEqual({ left: false });
  });

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
