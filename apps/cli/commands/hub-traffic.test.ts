import type azureDevice from "azure-iot-device";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { connectAzure, testDevice } from "../../../test/support/azure-node.ts";
import { registerTestCa, startTestHub, type TestHub } from "../../../test/support/hub-process.ts";
import { inProcess } from "../../../test/support/in-process.ts";
import { testCertificate } from "../../../test/support/test-pki.ts";
import { registerHub } from "./hub.ts";

let hub: TestHub;
let client: azureDevice.Client;

beforeAll(async () => {
  hub = await startTestHub();
  process.env["COUNTERSIGN_HOME"] = hub.home;
  const root = await testCertificate("CN=root", { ca: true });
  await registerTestCa(hub, "company-x", root);
  client = await connectAzure(hub, await testDevice("dev-1", root));
});

afterAll(async () => {
  await client?.close();
  await hub?.stop();
});

const hubCommand = (...argv: string[]): Promise<string> => inProcess(registerHub)("hub", ...argv);
const device = (...argv: string[]): Promise<string> => hubCommand("device", ...argv);

it("sends a message, which waits until the device takes it", async () => {
  expect(await device("send", "dev-1", "turn left", "--property", "speed=3")).toMatch(/^message \d+ waits for dev-1/);
  expect(JSON.parse(await device("messages", "dev-1", "--json"))).toMatchObject([{ properties: { speed: "3" } }]);
  const got = await new Promise<azureDevice.Message>((resolve) => client.on("message", resolve));
  expect(String(got.data)).toBe("turn left");
  await vi.waitFor(async () => expect(JSON.parse(await device("messages", "dev-1", "--json"))).toEqual([]), 20_000);
});

it("shows and changes a twin", async () => {
  expect(await device("twin", "dev-1", "--desired", '{"interval": 30}')).toContain('version 2)   {"interval":30}');
  expect(JSON.parse(await device("twin", "dev-1", "--json"))).toMatchObject({
    desired: { interval: 30 },
    reported: {},
  });
  await expect(device("twin", "dev-1", "--desired", "{")).rejects.toMatchObject({ code: "usage" });
  await expect(device("twin", "dev-1", "--desired", '{"a.b": 1}')).rejects.toMatchObject({ code: "input-invalid" });
  await expect(device("twin", "dev-2")).rejects.toMatchObject({ code: "not-found" });
});

it("calls a method", async () => {
  await expect(device("invoke", "dev-1", "reboot")).rejects.toMatchObject({ code: "hub-device-offline" });
  client.onDeviceMethod("reboot", (request, response) => void response.send(200, request.payload));
  await vi.waitFor(
    async () => expect(await device("invoke", "dev-1", "reboot", "--payload", "[1]")).toBe("200 [1]"),
    20_000,
  );
  await expect(device("invoke", "dev-1", "silent", "--timeout", "1")).rejects.toMatchObject({ code: "timeout" });
});

it("keeps enrollment groups", async () => {
  expect(await hubCommand("enrollment", "add", "lot-7", "--ca", "company-x")).toBe(
    "lot-7 is enabled: devices of company-x",
  );
  const again = hubCommand("enrollment", "add", "lot-8", "--ca", "company-x");
  await expect(again).rejects.toMatchObject({ code: "already-exists" });
  expect(await hubCommand("enrollment", "disable", "lot-7")).toContain("disabled");
  expect(await hubCommand("enrollment", "list")).toMatch(/lot-7\s+company-x\s+disabled/);
  await hubCommand("enrollment", "remove", "lot-7");
  await expect(hubCommand("enrollment", "enable", "lot-7")).rejects.toMatchObject({ code: "not-found" });
});
