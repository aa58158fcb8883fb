import { spawn } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startTestHub, type TestHub } from "../../../test/support/hub-process.ts";
import { inProcess } from "../../../test/support/in-process.ts";
import { PROJECT_ROOT } from "../../../test/support/index.ts";
import { simulate } from "../../device/simulator.ts";
import { SoftwareFleet } from "../../device/software-fleet.ts";
import { registerDevice } from "./device.ts";

let hub: TestHub;

beforeAll(async () => {
  hub = await startTestHub();
  process.env["COUNTERSIGN_HOME"] = hub.home;
});

afterAll(() => hub?.stop());

const countersign = inProcess(registerDevice);

async function nothingLeft(): Promise<void> {
  expect((await hub.api("GET", "/api/v1/cas")).body["cas"]).toEqual([]);
  expect((await hub.api("GET", "/api/v1/devices")).body["devices"]).toEqual([]);
}

/** As a person runs it, but for the terminal. */
function run(...args: string[]) {
  const child = spawn(process.execPath, [join(PROJECT_ROOT, "apps/cli/main.ts"), "device", "connect", ...args], {
    env: { ...process.env, COUNTERSIGN_HOME: hub.home },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  let result = "";
  child.stderr.setEncoding("utf8").on("data", (part: string) => (said += part));
  child.stdout.setEncoding("utf8").on("data", (part: string) => (result += part));
  const ended = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
  return { child, ended, said: () => said, result: () => result };
}

describe("a simulated fleet", () => {
  it("comes in, says everything, and leaves nothing but its telemetry behind", async () => {
    const answer = JSON.parse(
      await countersign("device", "connect", "--fleet", "30", "--messages", "3", "--interval", "20", "--json"),
    ) as Record<string, unknown>;
    expect(answer).toMatchObject({
      devices: 30,
      connected: 30,
      refused: {},
      published: 90,
      lost: {},
      refusedAtHub: {},
    });
    expect(answer["keys"]).toMatch(/made in software/);
    expect(answer["latency"]).toMatchObject({
      connect: { p50: expect.any(Number), p95: expect.any(Number) },
      publish: { p50: expect.any(Number), p95: expect.any(Number) },
    });
    expect((await hub.api("GET", "/api/v1/status")).body).toMatchObject({ telemetry: 90, connected: 0 });
    await nothingLeft();
  }, 30_000);

  it("shows a table, and no bar where there is no terminal", async () => {
    const shown = run("--fleet", "3", "--messages", "1", "--interval", "0");
    expect(await shown.ended).toBe(0);
    expect(shown.said()).not.toMatch(/[█\r]/);
    expect(shown.result()).toMatch(/connected +3 +[0-9.]+ +[0-9.]+\nmessages published +3 /);
  }, 30_000);

  it("removes its CA and devices when it is interrupted", async () => {
    const { child, ended, said } = run("--fleet", "10", "--messages", "1000");
    await expect.poll(said, { timeout: 20_000 }).toContain("publishing");
    child.kill("SIGINT");
    expect(await ended).not.toBe(0);
    expect(said()).toContain("interrupted");
    await nothingLeft();
  }, 40_000);

  it("counts those that aren't let in by what they saw, and ends early when it is told to", async () => {
    const stranger = new SoftwareFleet("stranger");
    const simulation = {
      devices: ["a", "b", "c"].map((deviceId) => ({ deviceId, context: stranger.device(deviceId, hub.infraCa.pem) })),
      hub: hub.address,
      messages: 1,
      intervalMs: 0,
      timeoutMs: 10_000,
    };
    const { signal } = new AbortController();
    const none = { connected: 0, published: 0, lost: {}, latency: { connect: null, publish: null } };
    expect(await simulate({ ...simulation, signal })).toMatchObject({ ...none, refused: { "not authorized": 3 } });
    expect(await simulate({ ...simulation, hub: "127.0.0.1:1", signal })).toMatchObject({
      ...none,
      refused: { "nobody listens there": 3 },
    });
    const untrusting = { deviceId: "d", context: stranger.device("d", stranger.rootPem) };
    const { refused } = await simulate({ ...simulation, devices: [untrusting], signal });
    expect(Object.keys(refused)).toEqual([expect.stringMatching(/CERT|UNABLE/)]);
    expect(await simulate({ ...simulation, signal: AbortSignal.abort() })).toMatchObject(none);
  }, 30_000);

  it("takes nothing that is one device's", async () => {
    await expect(countersign("device", "connect", "--fleet", "3", "--id", "dev-1")).rejects.toMatchObject({
      code: "usage",
    });
    await expect(countersign("device", "connect", "--id", "dev-1")).rejects.toMatchObject({ code: "usage" });
    await expect(countersign("device", "connect", "--fleet", "0")).rejects.toThrow();
  });
});
