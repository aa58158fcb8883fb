import { once } from "node:events";
import { connect as tlsConnect } from "node:tls";
import azureDevice from "azure-iot-device";
import { Amqp } from "azure-iot-device-amqp";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { ownLoopback, registerTestCa, startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { CLIENT_AUTH, testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";
import { nodeOf } from "./amqp-link.ts";

let hub: TestHub;
let host: string;
let root: TestCertificate;
let technician: TestCertificate;

beforeAll(async () => {
  host = ownLoopback();
  hub = await startTestHub({}, { host, amqp: { port: 5671, connectTimeoutMs: 2_000, maxMessageBytes: 65_536 } });
  root = await testCertificate("CN=root", { ca: true });
  technician = await testCertificate("CN=technician", { ca: true, issuer: root });
  await registerTestCa(hub, "company-x", root);
});

afterAll(() => hub?.stop());

const leafOf = (id: string, issuer = technician) => testCertificate(`CN=${id}`, { issuer, eku: [CLIENT_AUTH] });

async function client(id: string, leaf: TestCertificate, chain: string): Promise<azureDevice.Client> {
  const text = `HostName=${host};DeviceId=${id};x509=true`;
  const device = azureDevice.Client.fromConnectionString(text, Amqp);
  await device.setOptions({ cert: chain, key: leaf.keyPem, ca: hub.infraCa.pem });
  device.setRetryPolicy({ shouldRetry: () => false, nextRetryTimeout: () => 0 } as never);
  device.on("error", () => undefined);
  return device;
}

const path = (id: string): string => `/api/v1/devices/${id}`;
const waiting = async (id: string) => (await hub.api("GET", `${path(id)}/messages`)).body["messages"];

describe("Azure's Node SDK over AMQP", () => {
  it("sends telemetry, gets messages, twin and method calls", async () => {
    const leaf = await leafOf("amqp-1");
    const device = await client("amqp-1", leaf, leaf.pem + technician.pem);
    await device.open();
    const event = new azureDevice.Message('{"temperature":31}');
    event.messageId = "m-1";
    event.contentType = "application/json";
    event.contentEncoding = "utf-8";
    event.properties.add("temperatureAlert", "true");
    await device.sendEvent(event);
    const [stored] = (await hub.api("GET", `${path("amqp-1")}/telemetry`)).body["messages"];
    expect(stored).toMatchObject({
      system: { "$.mid": "m-1", "$.ct": "application/json", "$.ce": "utf-8" },
      properties: { temperatureAlert: "true" },
      body: Buffer.from('{"temperature":31}').toString("base64"),
    });

    const received = new Promise<azureDevice.Message>((resolve) => device.on("message", resolve));
    const message = { body: Buffer.from("turn left").toString("base64"), messageId: "c2d-1", properties: { a: "b" } };
    await hub.api("POST", `${path("amqp-1")}/messages`, message);
    const got = await received;
    expect([String(got.data), got.messageId]).toEqual(["turn left", "c2d-1"]);
    expect(got.properties.propertyList).toEqual([{ key: "a", value: "b" }]);
    expect(await waiting("amqp-1")).toHaveLength(1);
    await device.complete(got);
    await vi.waitFor(async () => expect(await waiting("amqp-1")).toEqual([]), 20_000);

    const twin = await device.getTwin();
    expect(twin.properties.desired).toMatchObject({ $version: 1 });
    await new Promise<void>((resolve, reject) =>
      twin.properties.reported.update({ firmware: "1.2.3" }, (error: Error | null) =>
        error ? reject(error) : resolve(),
      ),
    );
    expect((await hub.api("GET", `${path("amqp-1")}/twin`)).body).toMatchObject({ reported: { firmware: "1.2.3" } });
    const desired = new Promise((resolve) => twin.on("properties.desired.interval", resolve));
    await new Promise((resolve) => setTimeout(resolve, 300));
    await hub.api("PATCH", `${path("amqp-1")}/twin`, { desired: { interval: 30 } });
    expect(await desired).toBe(30);

    device.onDeviceMethod("reboot", (request, response) => void response.send(202, { delayed: request.payload }));
    const call = { payload: { seconds: 5 }, timeoutSeconds: 5 };
    await vi.waitFor(
      async () =>
        expect((await hub.api("POST", `${path("amqp-1")}/methods/reboot`, call)).body).toEqual({
          status: 202,
          payload: { delayed: { seconds: 5 } },
        }),
      20_000,
    );
    await device.close();
  });

  it("is refused like over MQTT: no path to a registered CA, another's ID, disabled while connected", async () => {
    const leaf = await leafOf("amqp-2");
    await expect((await client("amqp-2", leaf, leaf.pem)).open()).rejects.toThrow();
    const stranger = await leafOf("amqp-2", await testCertificate("CN=root", { ca: true }));
    await expect((await client("amqp-2", stranger, stranger.pem + technician.pem)).open()).rejects.toThrow();
    expect((await hub.api("GET", path("amqp-2"))).status).toBe(404);
    // The certificate's name counts; links of another device are refused.
    const chain = leaf.pem + technician.pem;
    const liar = await client("amqp-1", leaf, chain);
    await expect(liar.open().then(() => liar.sendEvent(new azureDevice.Message("{}")))).rejects.toThrow();
    await liar.close().catch(() => undefined);
    const device = await client("amqp-2", leaf, chain);
    await device.open();
    await device.sendEvent(new azureDevice.Message("{}"));
    await hub.api("POST", `${path("amqp-2")}/disable`, {});
    await expect(device.sendEvent(new azureDevice.Message("{}"))).rejects.toThrow();
    await device.close().catch(() => undefined);
    await expect((await client("amqp-2", leaf, chain)).open()).rejects.toThrow();
  });
});

describe("a hostile peer", () => {
  it("is cut off when it announces too much, says nothing, or talks nonsense", async () => {
    const leaf = await leafOf("amqp-bad");
    const meet = async (bytes: Buffer): Promise<void> => {
      const more = { ca: hub.infraCa.pem, cert: leaf.pem + technician.pem, key: leaf.keyPem };
      const socket = tlsConnect({ host, port: 5671, ...more });
      socket.on("error", () => undefined).resume();
      await once(socket, "secureConnect");
      socket.write(bytes);
      await once(socket, "close");
    };
    const header = Buffer.from("AMQP\0\x01\0\0");
    await Promise.all([
      meet(Buffer.alloc(0)),
      meet(Buffer.from("GET / HTTP/1.1\r\n\r\n")),
      meet(Buffer.concat([header, Buffer.from([0x7f, 0xff, 0xff, 0xff, 2, 0, 0, 0]), Buffer.alloc(100_000)])),
      meet(Buffer.concat([header, Buffer.from([0, 0, 0, 12, 2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])])),
    ]);
    expect((await hub.api("GET", "/healthz")).status).toBe(200);
  });
});

it("a link's address is this device's own, whatever else it holds", () => {
  expect(nodeOf("/devices/d:1/messages/events", "d:1")).toBe("events");
  expect(nodeOf("amqps://hub.example/devices/d%3A1/messages/devicebound/", "d:1")).toBe("messages");
  expect(nodeOf("/devices/e/twin", "d")).toBeUndefined();
  expect(nodeOf("/devices/d/__proto__", "d")).toBeUndefined();
  fc.assert(fc.property(fc.anything(), (address) => nodeOf(address, "d") === undefined));
});
