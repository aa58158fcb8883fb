import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connect, type Db } from "../../store/db.ts";
import { listTelemetry } from "../../store/hub-telemetry.ts";
import { registerTestCa, startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { tempDir, tool } from "../../test/support/index.ts";
import { CLIENT_AUTH, SERVER_AUTH, testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";
import { connectDevice } from "../device/connect.ts";

// The MQTT client the public SDK brings, for what the SDK itself never does.
const mqtt = createRequire(createRequire(import.meta.url).resolve("azure-iot-mqtt-base"))("mqtt");

let hub: TestHub;
let db: Db;
let root: TestCertificate;
let factory: TestCertificate;
let technician: TestCertificate;

beforeAll(async () => {
  hub = await startTestHub({ connectTimeoutMs: 1_500 });
  db = connect(hub.databaseUrl);
  root = await testCertificate("CN=root", { ca: true });
  factory = await testCertificate("CN=factory", { ca: true, issuer: root });
  technician = await testCertificate("CN=technician", { ca: true, issuer: factory, pathLength: 0 });
  await registerTestCa(hub, "company-x", root);
});

afterAll(async () => {
  await db?.end();
  await hub?.stop();
});

const leafFor = (id: string, options: Parameters<typeof testCertificate>[1] = {}) =>
  testCertificate(`CN=${id}`, { issuer: technician, eku: [CLIENT_AUTH], ...options });
const chainOf = (...certificates: TestCertificate[]): string => certificates.map(({ pem }) => pem).join("");

/** A device with a key in software, as only tests have it. */
function visit(deviceId: string, leaf: TestCertificate, chain: string, messages = 1) {
  return connectDevice({
    deviceId,
    hub: hub.address,
    ca: hub.infraCa.pem,
    chain,
    credentials: { key: leaf.keyPem },
    messages,
    timeoutMs: 10_000,
  });
}

async function refusals(): Promise<Record<string, number>> {
  return (await hub.api("GET", "/api/v1/status")).body["refusals"] as Record<string, number>;
}

/** Refused for exactly this reason, and nothing of it is kept. */
async function expectRefused(reason: string, deviceId: string, leaf: TestCertificate, chain: string): Promise<void> {
  const before = (await refusals())[reason] ?? 0;
  await expect(visit(deviceId, leaf, chain)).rejects.toMatchObject({ code: "hub-refused" });
  expect((await refusals())[reason]).toBe(before + 1);
  expect(await listTelemetry(db, deviceId, 10)).toEqual([]);
}

async function deviceStatus(id: string): Promise<number> {
  return (await hub.api("GET", `/api/v1/devices/${id}`)).status;
}

describe("who is let in", () => {
  it("a device whose full chain leads to a registered root, known from its first connect on", async () => {
    expect(await deviceStatus("dev-1")).toBe(404);
    const leaf = await leafFor("dev-1");
    await visit("dev-1", leaf, chainOf(leaf, technician, factory));
    const { body } = await hub.api("GET", "/api/v1/devices/dev-1");
    expect(body).toMatchObject({ deviceId: "dev-1", state: "enabled", caName: "company-x", telemetry: 1 });
    expect(body["chain"].map((link: { commonName: string }) => link.commonName)).toEqual([
      "dev-1",
      "technician",
      "factory",
      "root",
    ]);
    const first = body["firstConnectedAt"];
    await visit("dev-1", leaf, chainOf(leaf, technician, factory));
    const again = (await hub.api("GET", "/api/v1/devices/dev-1")).body;
    expect(again["firstConnectedAt"]).toBe(first);
    expect(Date.parse(again["lastConnectedAt"])).toBeGreaterThan(Date.parse(first));
  });

  it("no leaf alone, nor one with an intermediate missing", async () => {
    const leaf = await leafFor("dev-alone");
    await expectRefused("hub-no-path", "dev-alone", leaf, leaf.pem);
    await expectRefused("hub-no-path", "dev-alone", leaf, chainOf(leaf, factory));
    expect(await deviceStatus("dev-alone")).toBe(404);
  });

  it("no chain to an unregistered root, nor to one of the same name", async () => {
    const stranger = await testCertificate("CN=root", { ca: true });
    const leaf = await testCertificate("CN=dev-2", { issuer: stranger, eku: [CLIENT_AUTH] });
    await expectRefused("hub-no-path", "dev-2", leaf, chainOf(leaf, stranger));
    await expectRefused("hub-no-path", "dev-2", leaf, chainOf(leaf, root));
  });

  it("no registered CA that isn't verified yet", async () => {
    const pending = await testCertificate("CN=pending", { ca: true });
    await hub.api("POST", "/api/v1/cas", { name: "pending", certificate: pending.pem });
    const leaf = await testCertificate("CN=dev-2", { issuer: pending, eku: [CLIENT_AUTH] });
    await expectRefused("hub-no-path", "dev-2", leaf, chainOf(leaf, pending));
  });

  it("no device with another one's certificate, nor without any", async () => {
    const leaf = await leafFor("dev-a");
    await expectRefused("hub-device-mismatch", "dev-b", leaf, chainOf(leaf, technician, factory));
    const none = connectDevice({
      deviceId: "dev-b",
      hub: hub.address,
      ca: hub.infraCa.pem,
      chain: "",
      credentials: {},
      timeoutMs: 10_000,
    });
    await expect(none).rejects.toMatchObject({ code: expect.stringMatching(/hub-refused|component-unreachable/) });
  });

  it("no expired or future certificate, no server's, no CA posing as a device", async () => {
    const hour = 3_600_000;
    const past = { notBefore: new Date(Date.now() - 3 * hour), notAfter: new Date(Date.now() - hour) };
    const expired = await leafFor("dev-3", past);
    await expectRefused("hub-no-path", "dev-3", expired, chainOf(expired, technician, factory));
    const future = await leafFor("dev-3", { notBefore: new Date(Date.now() + hour) });
    await expectRefused("hub-no-path", "dev-3", future, chainOf(future, technician, factory));
    const server = await leafFor("dev-3", { eku: [SERVER_AUTH] });
    await expectRefused("hub-no-path", "dev-3", server, chainOf(server, technician, factory));
    const late = await testCertificate("CN=late", { ca: true, issuer: factory, ...past });
    const below = await leafFor("dev-3", { issuer: late });
    await expectRefused("hub-no-path", "dev-3", below, chainOf(below, late, factory));
    // A device's key must not make devices.
    const device = await leafFor("dev-4");
    const made = await leafFor("dev-3", { issuer: device });
    await expectRefused("hub-no-path", "dev-3", made, chainOf(made, device, technician, factory));
  });

  it("no device of another registered CA under an ID that is taken", async () => {
    const other = await testCertificate("CN=other company", { ca: true });
    await registerTestCa(hub, "other", other);
    const mine = await leafFor("dev-taken");
    await visit("dev-taken", mine, chainOf(mine, technician, factory));
    const theirs = await testCertificate("CN=dev-taken", { issuer: other, eku: [CLIENT_AUTH] });
    const before = (await refusals())["hub-device-mismatch"] ?? 0;
    await expect(visit("dev-taken", theirs, chainOf(theirs, other))).rejects.toMatchObject({ code: "hub-refused" });
    expect((await refusals())["hub-device-mismatch"]).toBe(before + 1);
  });

  it("no device of another key under an ID that is taken, though a party below the same root certified it", async () => {
    const mine = await leafFor("dev-mine");
    await visit("dev-mine", mine, chainOf(mine, technician, factory));
    const neighbour = await testCertificate("CN=neighbour", { ca: true, issuer: factory });
    const theirs = await leafFor("dev-mine", { issuer: neighbour });
    const before = (await refusals())["hub-device-mismatch"] ?? 0;
    await expect(visit("dev-mine", theirs, chainOf(theirs, neighbour, factory))).rejects.toMatchObject({
      code: "hub-refused",
    });
    expect((await refusals())["hub-device-mismatch"]).toBe(before + 1);
    // The same key under another party's certificate is the same device.
    const renewed = await leafFor("dev-mine", { issuer: neighbour, keys: mine.keys });
    await visit("dev-mine", renewed, chainOf(renewed, neighbour, factory));
    // A replaced board is a new device, once the operator says so.
    await hub.api("DELETE", "/api/v1/devices/dev-mine");
    await visit("dev-mine", theirs, chainOf(theirs, neighbour, factory));
  });

  it("no CA, whatever its name and its key's use", async () => {
    const ca = await testCertificate("CN=dev-ca", { ca: true, issuer: factory, digitalSignature: true });
    await expectRefused("hub-no-path", "dev-ca", ca, chainOf(ca, factory));
  });

  it("no disabled device: its connection ends and it is kept out until enabled", async () => {
    const leaf = await leafFor("dev-5");
    const chain = chainOf(leaf, technician, factory);
    const client = await rawClient("dev-5", leaf, chain);
    const closed = new Promise((resolve) => client.once("close", resolve));
    expect((await hub.api("POST", "/api/v1/devices/dev-5/disable", {})).body).toMatchObject({ state: "disabled" });
    await closed;
    await expectRefused("hub-device-disabled", "dev-5", leaf, chain);
    await hub.api("POST", "/api/v1/devices/dev-5/enable", {});
    await visit("dev-5", leaf, chain);
    expect((await hub.api("DELETE", "/api/v1/devices/dev-5")).status).toBe(204);
    expect(await deviceStatus("dev-5")).toBe(404);
  });

  it("answers a retry loop without another path validation", async () => {
    const leaf = await testCertificate("CN=dev-loop", { eku: [CLIENT_AUTH] });
    for (let i = 0; i < 7; i++) {
      await expect(visit("dev-loop", leaf, leaf.pem)).rejects.toMatchObject({ code: "hub-refused" });
    }
    expect((await refusals())["hub-rate-limited"]).toBe(2);
    // Its neighbour at the same address isn't punished.
    const good = await leafFor("dev-6");
    await visit("dev-6", good, chainOf(good, technician, factory));
  });
});

describe("the uploaded chain", () => {
  it.each(["-tls1_2", "-tls1_3"])("is whole on every connection: %s resumes nothing", async (version) => {
    const dir = tempDir("resume");
    const leaf = await leafFor("dev-7");
    writeFileSync(join(dir, "chain.pem"), chainOf(leaf, technician, factory));
    writeFileSync(join(dir, "leaf.pem"), leaf.pem);
    writeFileSync(join(dir, "key.pem"), leaf.keyPem);
    const run = (...session: string[]): string => {
      const args = ["s_client", "-connect", `127.0.0.1:${hub.mqttPort}`, version, "-ign_eof", ...session];
      args.push("-cert", "leaf.pem", "-cert_chain", "chain.pem", "-key", "key.pem");
      const { stdout } = spawnSync(tool("openssl"), args, { cwd: dir, encoding: "utf8", timeout: 6_000, input: "" });
      return stdout;
    };
    expect(run("-sess_out", "session.pem")).toMatch(/New, TLSv1\.[23]/);
    const again = run("-sess_in", "session.pem");
    expect(again).toMatch(/New, TLSv1\.[23]/);
    expect(again).not.toMatch(/Reused/);
  });

  it.each(["TLSv1.2", "TLSv1.3"] as const)(
    "is whole even for a client that offers its %s session again",
    async (version) => {
      const leaf = await leafFor("dev-8");
      const options = { ca: hub.infraCa.pem, cert: chainOf(leaf, technician, factory), key: leaf.keyPem };
      const meet = async (session?: Buffer): Promise<{ reused: boolean; session: Buffer | undefined }> => {
        const more = { minVersion: version, maxVersion: version, ...(session === undefined ? {} : { session }) };
        const socket = tlsConnect({
          host: "127.0.0.1",
          port: hub.mqttPort,
          servername: "localhost",
          ...options,
          ...more,
        });
        let reused = false;
        let given: Buffer | undefined;
        socket.on("secureConnect", () => {
          reused = socket.isSessionReused();
          given = socket.getSession();
        });
        socket.on("session", (ticket: Buffer) => (given = ticket)).on("error", () => undefined);
        // A client that says nothing is shown out after the time for CONNECT.
        const started = Date.now();
        await new Promise((resolve) => socket.once("close", resolve));
        expect(Date.now() - started).toBeLessThan(5_000);
        return { reused, session: given };
      };
      const first = await meet();
      expect(first.session).toBeDefined();
      expect((await meet(first.session)).reused).toBe(false);
    },
  );
});

interface RawClient {
  once(event: string, listener: (error: Error) => void): void;
  on(event: string, listener: (error: Error) => void): void;
  publish(topic: string, body: string | Buffer, options: object, done?: (error?: Error) => void): void;
  subscribe(topic: string, options: object, done: (error: Error | null, granted: { qos: number }[]) => void): void;
  end(force?: boolean): void;
  connected: boolean;
}

function rawClient(id: string, leaf: TestCertificate, chain: string, more: object = {}): Promise<RawClient> {
  const client = mqtt.connect({
    host: "localhost",
    port: hub.mqttPort,
    protocol: "mqtts",
    protocolVersion: 4,
    clientId: id,
    username: `localhost/${id}/?api-version=2021-04-12`,
    clean: false,
    reconnectPeriod: 0,
    ca: hub.infraCa.pem,
    cert: chain,
    key: leaf.keyPem,
    ...more,
  }) as RawClient;
  return new Promise((resolve, reject) => {
    client.once("connect", () => resolve(client));
    client.on("error", (error) => reject(error));
    client.once("close", () => reject(new Error("closed")));
  });
}

describe("what a device may say", () => {
  let leaf: TestCertificate;
  let chain: string;

  beforeAll(async () => {
    leaf = await leafFor("dev-9");
    chain = chainOf(leaf, technician, factory);
  });

  const closedAfter = (client: RawClient, topic: string, options: object, body: string | Buffer = "{}") =>
    new Promise<void>((resolve) => {
      client.once("close", () => resolve());
      client.publish(topic, body, options, () => undefined);
    });

  it("telemetry under its own name, stored with its properties before it is acknowledged", async () => {
    const client = await rawClient("dev-9", leaf, chain);
    const topic = "devices/dev-9/messages/events/%24.mid=m-1&%24.ct=application%2Fjson&temperatureAlert=true";
    await new Promise<void>((resolve, reject) =>
      client.publish(topic, '{"temperature":31}', { qos: 1 }, (error) => (error ? reject(error) : resolve())),
    );
    const [row] = await listTelemetry(db, "dev-9", 1);
    expect(row).toMatchObject({
      deviceId: "dev-9",
      system: { "$.mid": "m-1", "$.ct": "application/json" },
      properties: { temperatureAlert: "true" },
    });
    expect(Buffer.from(row?.body ?? []).toString()).toBe('{"temperature":31}');
    client.end(true);
  });

  it.each([
    ["another device's topic", "devices/dev-1/messages/events/", { qos: 1 }],
    ["a topic of the hub's", "devices/dev-9/messages/devicebound/x", { qos: 1 }],
    ["the twin's answers", "$iothub/twin/res/200/?$rid=1", { qos: 0 }],
    ["the broker's own topics", "$SYS/x", { qos: 0 }],
    ["QoS 2", "devices/dev-9/messages/events/", { qos: 2 }],
    ["a NUL in a property", "devices/dev-9/messages/events/a=%00", { qos: 1 }],
  ])("nothing under %s: the connection ends and no row is written", async (_what, topic, options) => {
    const before = (await hub.api("GET", "/api/v1/status")).body["telemetry"];
    await closedAfter(await rawClient("dev-9", leaf, chain), topic, options);
    expect((await hub.api("GET", "/api/v1/status")).body["telemetry"]).toBe(before);
  });

  it("a message up to the limit and none above it", async () => {
    const client = await rawClient("dev-9", leaf, chain);
    const topic = "devices/dev-9/messages/events/";
    await new Promise<void>((resolve, reject) =>
      client.publish(topic, Buffer.alloc(256 * 1024, 7), { qos: 1 }, (error) => (error ? reject(error) : resolve())),
    );
    await closedAfter(client, topic, { qos: 1 }, Buffer.alloc(300 * 1024));
    const [row] = await listTelemetry(db, "dev-9", 1);
    expect(row?.body.length).toBe(256 * 1024);
  });

  it.each(["devices/dev-1/messages/devicebound/#", "devices/dev-9/messages/events/#", "#", "$iothub/#"])(
    "no subscription to %s: SUBACK 128",
    async (topic) => {
      const client = await rawClient("dev-9", leaf, chain);
      const granted = await new Promise<{ qos: number }[]>((resolve) =>
        client.subscribe(topic, { qos: 1 }, (_error, answer) => resolve(answer)),
      );
      expect(granted[0]?.qos).toBe(128);
      client.end(true);
    },
  );

  it("no will message, no other client ID, no other user name, no oversized CONNECT", async () => {
    const will = { will: { topic: "devices/dev-9/messages/events/", payload: "bye", qos: 1 } };
    await expect(rawClient("dev-9", leaf, chain, will)).rejects.toThrow(/Not authorized/);
    await expect(rawClient("dev-9", leaf, chain, { clientId: "dev-1" })).rejects.toThrow(/Not authorized/);
    await expect(rawClient("dev-9", leaf, chain, { username: "dev-9" })).rejects.toThrow(/Not authorized/);
    await expect(rawClient("dev-9", leaf, chain, { password: Buffer.alloc(8_000) })).rejects.toThrow();
  });

  it("is not lost when the hub is killed right after the acknowledgement", async () => {
    const crash = await leafFor("dev-crash");
    const crashChain = chainOf(crash, technician, factory);
    const client = await rawClient("dev-crash", crash, crashChain);
    client.on("error", () => undefined);
    let acknowledged = 0;
    const topic = "devices/dev-crash/messages/events/";
    await Promise.all(
      Array.from(
        { length: 50 },
        (_, i) =>
          new Promise<void>((resolve) =>
            client.publish(topic, `${i}`, { qos: 1 }, (error) => {
              if (!error) acknowledged++;
              resolve();
            }),
          ),
      ),
    );
    await hub.crashAndRestart();
    expect(acknowledged).toBe(50);
    const stored = new Set(
      (await listTelemetry(db, "dev-crash", 1000)).map(({ body }) => Buffer.from(body).toString()),
    );
    expect(stored.size).toBe(50);
    client.end(true);
    // What was registered and verified before the crash still holds.
    await visit("dev-crash", crash, crashChain);
  });
});
