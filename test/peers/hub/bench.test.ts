import { expect, it } from "vitest";
import { benchHub } from "../../../bench/hub.ts";
import { hubNotes, hubTable } from "../../../bench/hub-report.ts";

it("measures the hub beside mosquitto", async () => {
  const report = await benchHub({ connects: 40, publishes: 400, devices: 60, against: ["mosquitto"] });
  expect(report.servers.map(({ name }) => name)).toEqual(["countersign", "mosquitto"]);
  for (const { connects, publishes, held, failed } of report.servers) {
    expect(failed).toBe(0);
    expect([connects.done, publishes.done, held.devices]).toEqual([40, 400, 60]);
    expect(Math.min(connects.perSecond, publishes.perSecond, connects.p50, publishes.p50)).toBeGreaterThan(0);
    expect(Object.values(held.with).every((bytes) => bytes > 1e6)).toBe(true);
  }
  expect(hubTable(report)).toHaveLength(5);
  expect(hubNotes(report).join("\n")).toMatch(/connects against mosquitto: [0-9.]+ times/);
});
