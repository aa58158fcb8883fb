import azureCommon from "azure-iot-common";
import type azureDevice from "azure-iot-device";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { connect } from "../../store/db.ts";
import { connectAzure, eventually, testDevice, type TestDevice } from "../../test/support/azure-node.ts";
import { registerTestCa, startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";

// Two processes of one hub: operators ask `near`, devices are connected to `far`.
let near: TestHub;
let far: TestHub;
let root: TestCertificate;

beforeAll(async () => {
  near = await startTestHub();
  far = await startTestHub({}, {}, near.databaseUrl);
  root = await testCertificate("CN=root", { ca: true });
  await registerTestCa(near, "company-x", root);
  const known = async () => (await far.api("GET", "/api/v1/cas")).body["cas"] as unknown[];
  await eventually(known, (cas) => cas.length === 1);
});
afterAll(() => Promise.all([near?.stop(), far?.stop()]));

const path = (id: string): string => `/api/v1/devices/${id}`;
const base64 = (text: string): string => Buffer.from(text).toString("base64");
const connected = async (hub: TestHub) => (await hub.api("GET", "/api/v1/status")).body["connected"] as number;

async function device(id: string): Promise<[TestDevice, azureDevice.Client]> {
  const made = await testDevice(id, root);
  return [made, await connectAzure(far, made)];
}

describe("a device at another process of the hub", () => {
  it("gets messages at once and once, desired properties in order, and answers methods", async () => {
    const id = "far:1";
    const [, client] = await device(id);
    const got: string[] = [];
    client.on("message", (one) => {
      got.push(String(one.data));
      client.complete(one, () => undefined);
    });
    const versions: number[] = [];
    const twin = await client.getTwin();
    twin.on("properties.desired", (patch: { $version: number }) => versions.push(patch.$version));
    // More than a notification can carry.
    const large = "x".repeat(20_000);
    client.onDeviceMethod("echo", (request, response) => void response.send(207, { back: request.payload }));
    const call = { payload: { large }, timeoutSeconds: 5 };
    const invoke = () => near.api("POST", `${path(id)}/methods/echo`, call);
    const answer = await eventually(invoke, ({ status }) => status === 200);
    expect(answer.body).toEqual({ status: 207, payload: { back: { large } } });

    for (const body of ["one", "two", "three"]) await near.api("POST", `${path(id)}/messages`, { body: base64(body) });
    const waiting = async () => (await near.api("GET", `${path(id)}/messages`)).body["messages"] as unknown[];
    expect(await eventually(waiting, (left) => left.length === 0)).toEqual([]);
    expect(got).toEqual(["one", "two", "three"]);

    // Both processes change it, and at the same time.
    const changes = Array.from({ length: 6 }, (_, i) => ({ desired: { [`p${i}`]: large.slice(0, 3_000) } }));
    await Promise.all(changes.map((change, i) => (i % 2 ? near : far).api("PATCH", `${path(id)}/twin`, change)));
    await vi.waitFor(() => expect(versions.at(-1)).toBe(7), 20_000);
    expect(versions.filter((version) => version > 1)).toEqual([2, 3, 4, 5, 6, 7]);
    expect(Object.keys(twin.properties.desired as object)).toEqual(expect.arrayContaining(["p0", "p5"]));

    client.onDeviceMethod("silent", () => undefined);
    const late = await near.api("POST", `${path(id)}/methods/silent`, { payload: null, timeoutSeconds: 1 });
    expect(late.body["code"]).toBe("timeout");
    await client.close();
    const gone = await invoke();
    expect([gone.status, gone.body["code"]]).toEqual([409, "hub-device-offline"]);
  });

  it("is at one process only: the last that let it in", async () => {
    const [made, client] = await device("far-2");
    const before = await connected(far);
    // Else either would connect again and again, and end the other's connection.
    client.setRetryPolicy(new azureCommon.NoRetry());
    const ended = new Promise((resolve) => client.on("disconnect", resolve));
    const nearby = await connectAzure(near, made);
    nearby.onDeviceMethod("where", (_request, response) => void response.send(200, "near"));
    await ended;
    const invoke = () => far.api("POST", `${path("far-2")}/methods/where`, { payload: null, timeoutSeconds: 5 });
    expect((await eventually(invoke, ({ status }) => status === 200)).body).toMatchObject({ payload: "near" });
    await client.close();
    expect(
      await eventually(
        () => connected(far),
        (count) => count === before - 1,
      ),
    ).toBe(before - 1);
    await nearby.close();
  });

  it("misses nothing that was said while its process wasn't listening", async () => {
    const id = "far-4";
    const [, client] = await device(id);
    const got: string[] = [];
    client.on("message", (one) => {
      got.push(String(one.data));
      client.complete(one, () => undefined);
    });
    const twin = await client.getTwin();
    const seen: unknown[] = [];
    twin.on("properties.desired.now", (value: unknown) => seen.push(value));
    client.onDeviceMethod("echo", (_request, response) => void response.send(200, 1));
    const invoke = () => near.api("POST", `${path(id)}/methods/echo`, { payload: 1, timeoutSeconds: 5 });
    await eventually(invoke, ({ status }) => status === 200);
    const db = connect(near.databaseUrl, { max: 1 });
    const ended = await db.query<{ ended: boolean }>(
      `SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity
       WHERE datname = current_database() AND query = 'LISTEN hub_traffic'`,
    );
    expect(ended.rows).toEqual([{ ended: true }, { ended: true }]);
    await db.end();
    await near.api("POST", `${path(id)}/messages`, { body: base64("unheard") });
    await near.api("PATCH", `${path(id)}/twin`, { desired: { now: "unheard" } });
    expect(got).toEqual([]);
    await vi.waitFor(() => expect([got, seen]).toEqual([["unheard"], ["unheard"]]), 20_000);
    expect((await eventually(invoke, ({ status }) => status === 200)).status).toBe(200);
    await client.close();
  });

  it("is soon told to be away when its process died, and comes to another one with what waited for it", async () => {
    const [made, client] = await device("far-3");
    client.onDeviceMethod("echo", (_request, response) => void response.send(200, 1));
    const invoke = () => near.api("POST", `${path("far-3")}/methods/echo`, { payload: 1, timeoutSeconds: 30 });
    expect((await eventually(invoke, ({ status }) => status === 200)).status).toBe(200);
    client.removeAllListeners("disconnect");
    const closed = client.close().catch(() => undefined);
    await far.crashAndRestart();
    await closed;
    const start = performance.now();
    expect((await invoke()).body["code"]).toBe("hub-device-offline");
    expect(performance.now() - start).toBeLessThan(15_000);
    await near.api("POST", `${path("far-3")}/messages`, { body: base64("waited") });
    const again = await connectAzure(near, made);
    const got = await new Promise<azureDevice.Message>((resolve) => again.on("message", resolve));
    expect(String(got.data)).toBe("waited");
    await again.close();
  });
});
