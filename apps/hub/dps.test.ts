import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { PythonDevice } from "../../test/support/azure-python.ts";
import { ownLoopback, registerTestCa, startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { PROJECT_ROOT, tempDir } from "../../test/support/index.ts";
import { CLIENT_AUTH, testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";
import { connectDevice } from "../device/connect.ts";
import { registrationOfUsername } from "./dps.ts";

const mqtt = createRequire(createRequire(import.meta.url).resolve("azure-iot-mqtt-base"))("mqtt");

const ID_SCOPE = "0ne00C0FFEE";
let hub: TestHub;
let hubHost: string;
let dpsHost: string;
let technician: TestCertificate;

beforeAll(async () => {
  hubHost = ownLoopback();
  dpsHost = ownLoopback();
  const dps = { host: dpsHost, port: 8883, assignedHub: hubHost };
  hub = await startTestHub({ port: 8883 }, { host: hubHost, dps }, undefined, { ips: [dpsHost] });
  const root = await testCertificate("CN=root", { ca: true });
  technician = await testCertificate("CN=technician", { ca: true, issuer: root });
  await registerTestCa(hub, "company-x", root);
});

afterAll(() => hub?.stop());

interface Device {
  cert: string;
  key: string;
  ca: string;
  deviceId: string;
  keys: TestCertificate["keys"];
}

async function deviceFiles(deviceId: string, issuer = technician, of?: TestCertificate["keys"]): Promise<Device> {
  const dir = tempDir("dps");
  const leaf = await testCertificate(`CN=${deviceId}`, { issuer, eku: [CLIENT_AUTH], ...(of && { keys: of }) });
  const files = { cert: join(dir, "chain.pem"), key: join(dir, "key.pem"), ca: join(dir, "ca.pem") };
  writeFileSync(files.cert, leaf.pem + issuer.pem);
  writeFileSync(files.key, leaf.keyPem);
  writeFileSync(files.ca, hub.infraCa.pem);
  return { ...files, deviceId, keys: leaf.keys };
}

/** Registers and, when assigned, sends a message to the assigned hub. */
function nodeDevice(device: Device, how: { idScope?: string; registerOnly?: boolean } = {}) {
  const script = join(PROJECT_ROOT, "test/support/judges/azure_provision.mjs");
  const options = JSON.stringify({ ...device, provisioning: dpsHost, idScope: ID_SCOPE, ...how });
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: device.ca };
  return new Promise<Record<string, unknown>>((resolve, reject) =>
    execFile(process.execPath, [script, options], { env, timeout: 25_000 }, (_error, stdout, stderr) =>
      stdout.trim() === "" ? reject(new Error(stderr)) : resolve(JSON.parse(stdout) as Record<string, unknown>),
    ),
  );
}

/** Straight to the hub. */
const visit = ({ deviceId, cert, key, ca }: Device) =>
  connectDevice({
    deviceId,
    hub: hub.address,
    ca: readFileSync(ca, "utf8"),
    chain: readFileSync(cert, "utf8"),
    credentials: { key: readFileSync(key, "utf8") },
    messages: 1,
    timeoutMs: 10_000,
  });

const telemetryOf = async (id: string): Promise<unknown[]> =>
  (await hub.api("GET", `/api/v1/devices/${id}/telemetry`)).body["messages"] as unknown[];

describe("device provisioning", () => {
  it("gives a device nothing before its CA has an enrollment group", async () => {
    expect(await nodeDevice(await deviceFiles("dps-0"))).toHaveProperty("error");
    expect((await hub.api("GET", "/api/v1/devices/dps-0")).status).toBe(404);
    const unverified = await hub.api("POST", "/api/v1/enrollment-groups", { name: "lot-7", ca: "nobody" });
    expect(unverified.body["code"]).toBe("hub-ca-not-verified");
    const made = await hub.api("POST", "/api/v1/enrollment-groups", { name: "lot-7", ca: "company-x" });
    expect([made.status, made.body["state"]]).toEqual([201, "enabled"]);
  });

  it("sends Azure's Node SDK to its hub, and the hub takes it, registered devices alone too", async () => {
    await hub.api("PUT", "/api/v1/cas/company-x/enrolment", { enrolment: "registered" });
    const result = await nodeDevice(await deviceFiles("dps-node"));
    expect(result).toEqual({ hub: hubHost, deviceId: "dps-node", status: "assigned" });
    expect(await telemetryOf("dps-node")).toHaveLength(1);
  });

  it("sends Azure's Python SDK to its hub, and the hub takes it", async () => {
    const device = await deviceFiles("dps-py");
    const { keys: _keys, ...files } = device;
    const python = new PythonDevice({ ...files, provisioning: dpsHost, idScope: ID_SCOPE });
    expect(await python.event("registered")).toMatchObject({ status: "assigned", hub: hubHost, deviceId: "dps-py" });
    await python.event("sent");
    expect(await telemetryOf("dps-py")).toHaveLength(1);
    expect(await python.stop()).toBe(0);
  }, 40_000);

  it("refuses another scope, a stranger's chain, a disabled device and a disabled group", async () => {
    expect(await nodeDevice(await deviceFiles("dps-1"), { idScope: "0neOTHER" })).toHaveProperty("error");
    const stranger = await testCertificate("CN=technician", { ca: true });
    expect(await nodeDevice(await deviceFiles("dps-1", stranger))).toHaveProperty("error");
    await hub.api("POST", "/api/v1/devices/dps-node/disable", {});
    expect(await nodeDevice(await deviceFiles("dps-node"))).toHaveProperty("error");
    await hub.api("POST", "/api/v1/enrollment-groups/lot-7/disable", {});
    expect(await nodeDevice(await deviceFiles("dps-1"))).toHaveProperty("error");
    expect((await hub.api("GET", "/api/v1/devices/dps-1")).status).toBe(404);
    await hub.api("POST", "/api/v1/enrollment-groups/lot-7/enable", {});
  });

  it("keeps a device's ID for its CA and its key until it comes", async () => {
    const device = await deviceFiles("dps-late");
    expect(await nodeDevice(device, { registerOnly: true })).toMatchObject({ status: "assigned" });
    const { body } = await hub.api("GET", "/api/v1/devices/dps-late");
    expect(body).toMatchObject({ caName: "company-x", firstConnectedAt: null, chain: null });

    const factory = await testCertificate("CN=factory", { ca: true });
    await registerTestCa(hub, "factory", factory);
    await hub.api("PUT", "/api/v1/cas/factory/enrolment", { enrolment: "registered" });
    await hub.api("POST", "/api/v1/enrollment-groups", { name: "lot-8", ca: "factory" });
    for (const issuer of [factory, technician]) {
      const claim = await deviceFiles("dps-late", issuer);
      await expect(visit(claim)).rejects.toMatchObject({ code: "hub-refused" });
      expect(await nodeDevice(claim, { registerOnly: true })).toHaveProperty("error");
    }

    // Another certificate of its CA, for another key even, is as much its own.
    const rotated = await testCertificate("CN=root, O=new key", { ca: true });
    await registerTestCa(hub, "company-x-2", rotated, "company-x");
    const renewed = await deviceFiles("dps-late", rotated, device.keys);
    expect(await nodeDevice(renewed, { registerOnly: true })).toMatchObject({ status: "assigned" });
    await visit(renewed);
  });

  it("binds a device that was registered by its ID alone when it is provisioned", async () => {
    await hub.api("POST", "/api/v1/devices", { deviceId: "dps-named" });
    const device = await deviceFiles("dps-named");
    expect(await nodeDevice(device, { registerOnly: true })).toMatchObject({ status: "assigned" });
    await expect(visit(await deviceFiles("dps-named"))).rejects.toMatchObject({ code: "hub-refused" });
    await visit(device);
  });

  it("hears and says nothing else", async () => {
    const leaf = await testCertificate("CN=dps-raw", { issuer: technician, eku: [CLIENT_AUTH] });
    const client = mqtt.connect({
      host: dpsHost,
      port: 8883,
      protocol: "mqtts",
      protocolVersion: 4,
      clientId: "dps-raw",
      username: `${ID_SCOPE}/registrations/dps-raw/api-version=2019-03-31&ClientVersion=x`,
      reconnectPeriod: 0,
      ca: hub.infraCa.pem,
      cert: leaf.pem + technician.pem,
      key: leaf.keyPem,
    });
    client.on("error", () => undefined);
    await new Promise((resolve) => client.once("connect", resolve));
    for (const topic of ["#", "$dps/#", "$dps/registrations/PUT/#", "devices/dps-raw/messages/devicebound/#"]) {
      const granted = await new Promise<{ qos: number }[]>((resolve) =>
        client.subscribe(topic, { qos: 1 }, (_error: unknown, answer: { qos: number }[]) => resolve(answer)),
      );
      expect([topic, granted[0]?.qos]).toEqual([topic, 128]);
    }
    const closed = new Promise((resolve) => client.once("close", resolve));
    client.publish("devices/dps-raw/messages/events/", "{}", { qos: 1 }, () => undefined);
    await closed;
  });
});

it("a username is read whole or not at all", () => {
  const scope = ID_SCOPE;
  expect(registrationOfUsername(`${scope}/registrations/d:1/api-version=2019-03-31&ClientVersion=x`, scope)).toBe(
    "d:1",
  );
  expect(registrationOfUsername(`${scope}/registrations/d/ClientVersion=x&api-version=2019-03-31`, scope)).toBe("d");
  for (const wrong of [
    "",
    `${scope}/registrations//api-version=1`,
    `other/registrations/d/api-version=1`,
    "h/d/?api-version=1",
  ]) {
    expect(registrationOfUsername(wrong, scope)).toBeUndefined();
  }
  fc.assert(fc.property(fc.string(), (text) => registrationOfUsername(text, scope) === undefined));
});
