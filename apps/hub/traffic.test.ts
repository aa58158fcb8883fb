import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import azureDevice from "azure-iot-device";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connectAzure, eventually, type TestDevice, testDevice } from "../../test/support/azure-node.ts";
import { PythonDevice } from "../../test/support/azure-python.ts";
import { ownLoopback, registerTestCa, startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { tempDir } from "../../test/support/index.ts";
import { testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";

// The MQTT client the public SDK brings, for what the SDK itself never does.
const mqtt = createRequire(createRequire(import.meta.url).resolve("azure-iot-mqtt-base"))("mqtt");

let hub: TestHub;
let root: TestCertificate;
let technician: TestCertificate;

beforeAll(async () => {
  // Azure's Python SDK connects to port 8883 and no other.
  hub = await startTestHub({ port: 8883 }, { host: ownLoopback() });
  root = await testCertificate("CN=root", { ca: true });
  technician = await testCertificate("CN=technician", { ca: true, issuer: root });
  await registerTestCa(hub, "company-x", root);
});

afterAll(() => hub?.stop());

const credentials = (id: string): Promise<TestDevice> => testDevice(id, technician);
const nodeClient = (device: TestDevice): Promise<azureDevice.Client> => connectAzure(hub, device);

const devicePath = (id: string): string => `/api/v1/devices/${id}`;
const base64 = (text: string): string => Buffer.from(text).toString("base64");

/** What the hub's operator does with a device, and what the device must have seen. */
const message = { body: base64("turn left"), messageId: "c2d-1", properties: { "a b": "c&d=ü" } };

const waitingFor = async (id: string): Promise<{ deliveries: number }[]> =>
  (await hub.api("GET", `${devicePath(id)}/messages`)).body["messages"] as { deliveries: number }[];

describe("Azure's Node SDK over MQTT", () => {
  it("sends telemetry, gets messages, twin and method calls", async () => {
    const client = await nodeClient(await credentials("node-1"));
    const event = new azureDevice.Message("{}");
    event.properties.add("temperatureAlert", "true");
    await client.sendEvent(event);
    const { messages } = (await hub.api("GET", `${devicePath("node-1")}/telemetry`)).body;
    expect(messages[0].properties).toEqual({ temperatureAlert: "true" });

    const received = new Promise<azureDevice.Message>((resolve) => client.on("message", resolve));
    expect((await hub.api("POST", `${devicePath("node-1")}/messages`, message)).status).toBe(202);
    const got = await received;
    expect(String(got.data)).toBe("turn left");
    expect(got.messageId).toBe("c2d-1");
    expect(got.properties.propertyList).toEqual([{ key: "a b", value: "c&d=ü" }]);
    await client.complete(got);
    expect(
      await eventually(
        () => waitingFor("node-1"),
        (left) => left.length === 0,
      ),
    ).toEqual([]);

    const twin = await client.getTwin();
    expect(twin.properties.desired).toMatchObject({ $version: 1 });
    await new Promise<void>((resolve, reject) =>
      twin.properties.reported.update({ firmware: "1.2.3" }, (error: Error | null) =>
        error ? reject(error) : resolve(),
      ),
    );
    const seen = (await hub.api("GET", `${devicePath("node-1")}/twin`)).body;
    expect(seen).toMatchObject({ reported: { firmware: "1.2.3" }, reportedVersion: 2 });
    const desired = new Promise<Record<string, unknown>>((resolve) =>
      twin.on("properties.desired.interval", (value: unknown) => resolve({ interval: value })),
    );
    // The SDK subscribes in the background when the first listener comes.
    await new Promise((resolve) => setTimeout(resolve, 300));
    await hub.api("PATCH", `${devicePath("node-1")}/twin`, { desired: { interval: 30 } });
    expect(await desired).toEqual({ interval: 30 });

    client.onDeviceMethod("reboot", (request, response) => {
      void response.send(202, { delayed: request.payload });
    });
    const call = { payload: { seconds: 5 }, timeoutSeconds: 5 };
    const invoke = () => hub.api("POST", `${devicePath("node-1")}/methods/reboot`, call);
    const answer = await eventually(invoke, ({ status }) => status === 200);
    expect(answer.body).toEqual({ status: 202, payload: { delayed: { seconds: 5 } } });
    await client.close();
    const offline = await invoke();
    expect([offline.status, offline.body["code"]]).toEqual([409, "hub-device-offline"]);
  });

  it("gets what was sent while it was away", async () => {
    const device = await credentials("node-2");
    await (await nodeClient(device)).close();
    for (const body of ["one", "two"]) {
      await hub.api("POST", `${devicePath("node-2")}/messages`, { body: base64(body) });
    }
    expect(await waitingFor("node-2")).toHaveLength(2);
    const client = await nodeClient(device);
    const got: string[] = [];
    client.on("message", (one) => got.push(String(one.data)));
    expect(
      await eventually(
        () => waitingFor("node-2"),
        (left) => left.length === 0,
      ),
    ).toEqual([]);
    expect(got).toEqual(["one", "two"]);
    await client.close();
  });
});

describe("Azure's Python SDK over MQTT", () => {
  it("sends telemetry, gets messages, twin and method calls, and subscribes once for all its connections", async () => {
    const device = await credentials("py-1");
    const dir = tempDir("python");
    const files = { cert: join(dir, "chain.pem"), key: join(dir, "key.pem"), ca: join(dir, "ca.pem") };
    writeFileSync(files.cert, device.chain);
    writeFileSync(files.key, device.key);
    writeFileSync(files.ca, hub.infraCa.pem);
    const python = new PythonDevice({ ...files, hub: hub.address.split(":")[0]!, deviceId: "py-1" });
    await python.event("sent");
    const [stored] = (await hub.api("GET", `${devicePath("py-1")}/telemetry`)).body["messages"];
    expect(stored).toMatchObject({
      system: { "$.mid": "py-1", "$.ct": "application/json", "$.ce": "utf-8" },
      properties: { temperatureAlert: "true" },
    });
    const { twin } = await python.event("twin");
    expect(twin).toMatchObject({ reported: { firmware: "1.2.3", $version: 2 }, desired: { $version: 1 } });

    const talk = async (): Promise<void> => {
      await hub.api("POST", `${devicePath("py-1")}/messages`, message);
      expect(await python.event("message")).toMatchObject({
        data: "turn left",
        messageId: "c2d-1",
        properties: { "a b": "c&d=ü" },
      });
      await hub.api("PATCH", `${devicePath("py-1")}/twin`, { desired: { interval: 30 } });
      expect(await python.event("desired")).toMatchObject({ patch: { interval: 30 } });
      const call = { payload: { seconds: 5 }, timeoutSeconds: 5 };
      const answer = await hub.api("POST", `${devicePath("py-1")}/methods/reboot`, call);
      expect(answer.body).toEqual({ status: 200, payload: { echo: { seconds: 5 } } });
    };
    await talk();
    // It connects again by itself and doesn't subscribe again: the hub remembers, over its own death too.
    await hub.crashAndRestart();
    const connected = async () => (await hub.api("GET", "/api/v1/status")).body["connected"] as number;
    await eventually(connected, (count) => count === 1);
    await talk();
    expect(await python.stop()).toBe(0);
  }, 60_000);
});

interface RawClient {
  once(event: string, listener: (...args: never[]) => void): void;
  on(event: "message", listener: (topic: string, payload: Buffer) => void): void;
  on(event: "error", listener: (error: Error) => void): void;
  publish(topic: string, body: string | Buffer, options: object, done?: (error?: Error) => void): void;
  subscribe(topics: string[], options: object, done: (error: Error | null, granted: { qos: number }[]) => void): void;
  end(force?: boolean): void;
}

function rawClient(device: TestDevice, more: object = {}): Promise<RawClient> {
  const [host, port] = hub.address.split(":");
  const client = mqtt.connect({
    host,
    port: Number(port),
    protocol: "mqtts",
    protocolVersion: 4,
    clientId: device.id,
    username: `${host}/${device.id}/?api-version=2021-04-12`,
    clean: false,
    reconnectPeriod: 0,
    resubscribe: false,
    ca: hub.infraCa.pem,
    cert: device.chain,
    key: device.key,
    ...more,
  }) as RawClient;
  return new Promise((resolve, reject) => {
    client.once("connect", () => resolve(client));
    client.on("error", reject);
    client.once("close", () => reject(new Error("closed")));
  });
}

const ALL = (id: string): string[] => [
  `devices/${id}/messages/devicebound/#`,
  "$iothub/twin/res/#",
  "$iothub/twin/PATCH/properties/desired/#",
  "$iothub/methods/POST/#",
];

const subscribe = (client: RawClient, topics: string[]): Promise<number[]> =>
  new Promise((resolve) =>
    client.subscribe(topics, { qos: 1 }, (_e, granted) => resolve(granted.map(({ qos }) => qos))),
  );

describe("isolation", () => {
  it("refuses every topic filter that isn't the device's own: SUBACK 128", async () => {
    const device = await credentials("iso-0");
    const client = await rawClient(device);
    const foreign = [
      "#",
      "+/iso-0/messages/devicebound/#",
      "devices/+/messages/devicebound/#",
      "devices/iso-1/messages/devicebound/#",
      "devices/iso-0/messages/events/#",
      "devices/iso-0/#",
      "$iothub/#",
      "$iothub/twin/#",
      "$iothub/twin/GET/#",
      "$iothub/methods/res/#",
      "$SYS/#",
    ];
    for (const topic of foreign) expect([topic, await subscribe(client, [topic])]).toEqual([topic, [128]]);
    expect(await subscribe(client, [...ALL("iso-0"), "devices/iso-1/messages/devicebound/#"])).toEqual([
      1, 1, 1, 1, 128,
    ]);
    client.end(true);
  });

  it("hands nothing of one device to another, on the topics that all of them share", async () => {
    const [a, b] = await Promise.all([credentials("iso-a"), credentials("iso-b")]);
    const [clientA, clientB] = await Promise.all([rawClient(a), rawClient(b)]);
    const heard: Record<"a" | "b", string[]> = { a: [], b: [] };
    clientA.on("message", (topic) => heard.a.push(topic));
    clientB.on("message", (topic) => heard.b.push(topic));
    await Promise.all([subscribe(clientA, ALL("iso-a")), subscribe(clientB, ALL("iso-b"))]);
    const publish = (client: RawClient, topic: string, body: string): Promise<void> =>
      new Promise((resolve, reject) =>
        client.publish(topic, body, { qos: 1, retain: true }, (error) => (error ? reject(error) : resolve())),
      );
    await publish(clientA, "$iothub/twin/GET/?$rid=1", " ");
    await publish(clientA, "$iothub/twin/PATCH/properties/reported/?$rid=2", '{"of":"a"}');
    await publish(clientA, "$iothub/twin/PATCH/properties/reported/?$rid=3", '{"bad.name":1}');
    await publish(clientA, "devices/iso-a/messages/events/", "{}");
    await hub.api("PATCH", `${devicePath("iso-a")}/twin`, { desired: { x: 1 } });
    await hub.api("POST", `${devicePath("iso-a")}/messages`, { body: "" });
    // A call to A that B tries to answer: the topic is shared, the answer counts from A alone.
    const invoked = hub.api("POST", `${devicePath("iso-a")}/methods/m`, { payload: 1, timeoutSeconds: 5 });
    const methodTopic = await eventually(
      async () => heard.a.find((topic) => topic.startsWith("$iothub/methods/POST/m/")),
      (topic) => topic !== undefined,
    );
    const rid = methodTopic!.split("$rid=")[1]!;
    await publish(clientB, `$iothub/methods/res/200/?$rid=${rid}`, '"of b"');
    await publish(clientA, `$iothub/methods/res/200/?$rid=${rid}`, '"of a"');
    expect((await invoked).body).toEqual({ status: 200, payload: "of a" });
    expect(heard.a.toSorted()).toEqual([
      "$iothub/methods/POST/m/?$rid=" + rid,
      "$iothub/twin/PATCH/properties/desired/?$version=2",
      "$iothub/twin/res/200/?$rid=1",
      "$iothub/twin/res/204/?$rid=2&$version=2",
      "$iothub/twin/res/400/?$rid=3",
      "devices/iso-a/messages/devicebound/%24.to=%2Fdevices%2Fiso-a%2Fmessages%2Fdevicebound",
    ]);
    expect(heard.b).toEqual([]);
    expect((await hub.api("GET", `${devicePath("iso-b")}/twin`)).body).toMatchObject({ reported: {} });
    clientA.end(true);
    clientB.end(true);
  });

  it.each([
    ["another device's messages", "devices/iso-a/messages/devicebound/x=1"],
    ["a twin's answer", "$iothub/twin/res/200/?$rid=1"],
    ["desired properties", "$iothub/twin/PATCH/properties/desired/?$version=9"],
    ["a method call", "$iothub/methods/POST/reboot/?$rid=1"],
    ["another device's events", "devices/iso-a/messages/events/"],
  ])("takes nothing from a device under %s: the connection ends", async (_what, topic) => {
    const client = await rawClient(await credentials(`iso-${topic.length}-${topic.charCodeAt(9)}`));
    const closed = once(client as never, "close");
    client.publish(topic, "{}", { qos: 1 }, () => undefined);
    await closed;
  });

  it("delivers a message again until it is acknowledged", async () => {
    const device = await credentials("iso-ack");
    const deaf = await rawClient(device, {
      // A client that never acknowledges.
      customHandleAcks: () => undefined,
      autoAck: false,
    });
    (deaf as unknown as { handleMessage: (packet: unknown, done: () => void) => void }).handleMessage = () => undefined;
    await subscribe(deaf, ALL("iso-ack"));
    await hub.api("POST", `${devicePath("iso-ack")}/messages`, { body: base64("again") });
    expect(
      await eventually(
        () => waitingFor("iso-ack"),
        ([one]) => one?.deliveries === 1,
      ),
    ).toHaveLength(1);
    deaf.end(true);
    const client = await rawClient(device);
    expect(
      await eventually(
        () => waitingFor("iso-ack"),
        (left) => left.length === 0,
      ),
    ).toEqual([]);
    client.end(true);
  });
});
