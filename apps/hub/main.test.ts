import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { connect as netConnect } from "node:net";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { describe, expect, it } from "vitest";
import { connect } from "../../store/db.ts";
import { startTestHub } from "../../test/support/hub-process.ts";
import { PROJECT_ROOT, tempDir } from "../../test/support/index.ts";
import { freePort } from "../site/stack/ports.ts";
import { hubComponents, hubMetrics, type HubHealthParts } from "./health.ts";

function start(config?: unknown): { status: number | null; stderr: string } {
  const file = join(tempDir("main"), "hub.json");
  if (config !== undefined) writeFileSync(file, typeof config === "string" ? config : JSON.stringify(config));
  return spawnSync(process.execPath, [join(PROJECT_ROOT, "apps/hub/main.ts"), "--config", file], { encoding: "utf8" });
}

describe("the hub's process", () => {
  it("ends when the process that started it is gone", async () => {
    const hub = await startTestHub();
    expect(await hub.orphan()).toBe(0);
  });

  it("ends in time and well, whatever is half said to it", async () => {
    const hub = await startTestHub();
    const ports = [hub.apiPort, hub.mqttPort];
    const half = tlsConnect({ port: hub.apiPort, host: "127.0.0.1", ca: hub.infraCa.pem, servername: "localhost" });
    const mute = ports.map((port) => netConnect(port, "127.0.0.1"));
    for (const socket of [half, ...mute]) socket.on("error", () => undefined);
    await Promise.all([once(half, "secureConnect"), ...mute.map((socket) => once(socket, "connect"))]);
    half.write(
      'POST /api/v1/crl-updates HTTP/1.1\r\nhost: hub\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n\r\n{"crl"',
    );
    // Its headers have been read by the time another request is answered.
    await hub.api("GET", "/healthz");
    await hub.stop();
    for (const socket of [half, ...mute]) socket.destroy();
  });

  it("says what its configuration lacks, in one line, by the exit code", async () => {
    expect(start()).toMatchObject({
      status: 3,
      stderr: expect.stringMatching(/^hub: can't read the hub's configuration .*\n$/),
    });
    expect(start("{")).toMatchObject({ status: 2, stderr: expect.stringContaining("is not JSON") });
    expect(start({ schema: "countersign/hub/v1", surprise: 1 })).toMatchObject({ status: 2 });
    const hub = await startTestHub();
    const config = JSON.parse(readFileSync(join(hub.home, "hub", "hub.json"), "utf8"));
    await hub.stop();
    expect(start(config)).toMatchObject({ status: 3, stderr: expect.stringContaining("the hub can't read") });
  });
});

describe("what the hub says of itself", () => {
  it("is its state by component, and metrics on a port of their own", async () => {
    const port = await freePort();
    const hub = await startTestHub({}, { management: { port } });
    try {
      expect(await hub.api("GET", "/healthz")).toEqual({ status: 200, body: { ok: true } });
      const up = ["database", "registry", "telemetry", "revocation lists"].map((name) => ({ name, state: "up" }));
      expect(await hub.api("GET", "/readyz")).toEqual({ status: 200, body: { ok: true, components: up } });
      const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
      expect(answer.headers.get("content-type")).toMatch(/^text\/plain; version=0\.0\.4/);
      const text = await answer.text();
      for (const line of [
        'countersign_hub_connections{protocol="mqtt"} 0',
        "countersign_hub_telemetry_stored_total 0",
        "countersign_hub_cas 0",
        "countersign_database_up 1",
      ]) {
        expect(text.split("\n")).toContain(line);
      }
      expect(text).toMatch(/^process_resident_memory_bytes \d{7,}$/m);
    } finally {
      await hub.stop();
    }
  });

  it("names what is down or old, and goes on without a database", async () => {
    const db = connect("postgres://nobody@127.0.0.1:1/none");
    const parts: HubHealthParts = {
      db,
      registry: { loadedAt: Date.now() - 60_000, staleCrls: () => 2 },
      telemetry: { waiting: 50_000, full: true, written: 7 },
      doors: { mqtt: { connected: 3, refusals: { "hub-revoked": 4 } } },
    };
    expect(await hubComponents(parts)).toEqual([
      { name: "database", state: "down", code: "component-unreachable" },
      { name: "registry", state: "degraded", code: "component-unreachable", since: expect.any(String) as string },
      { name: "telemetry", state: "down", code: "component-unreachable" },
      { name: "revocation lists", state: "degraded", code: "hub-crl-stale" },
    ]);
    const lines = (await hubMetrics(parts)).split("\n");
    expect(lines).toContain("countersign_database_up 0");
    expect(lines).toContain('countersign_hub_refusals_total{protocol="mqtt",reason="hub-revoked"} 4');
    expect(lines).toContain("countersign_hub_telemetry_waiting 50000");
    expect(lines.join("\n")).not.toContain("hub_cas");
    await db.end();
  });
});
