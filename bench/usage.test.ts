import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, expect, it } from "vitest";
import { latencyOf } from "./statistics.ts";
import { memoryOf, usageOf } from "./usage.ts";

const BURN = "const until = process.cpuUsage().user + 300_000; while (process.cpuUsage().user < until);";

describe.runIf(process.platform === "linux")("usage", () => {
  it("counts a process with its children, running and ended", async () => {
    const script = `
      const { spawn } = require("node:child_process");
      let open = 2;
      for (const stay of ["", "stay"]) {
        const child = spawn(process.execPath, ["-e", ${JSON.stringify(BURN)} + (stay ? "process.stdout.write('x');process.stdin.on('end', () => process.exit()).resume()" : "")], { stdio: ["pipe", "pipe", "inherit"] });
        child.once(stay ? "message" : "exit", () => --open || process.stdout.write("ready"));
        if (stay) child.stdout.once("data", () => --open || process.stdout.write("ready"));
      }
      process.stdin.on("end", () => process.exit()).resume();`;
    const parent = spawn(process.execPath, ["-e", script], { stdio: ["pipe", "pipe", "inherit"] });
    try {
      await once(parent.stdout, "data");
      const part = [{ name: "tree", pid: parent.pid! }];
      const usage = usageOf(part).get("tree")!;
      expect(usage.cpuMs).toBeGreaterThanOrEqual(580);
      expect(usage.pids).toHaveLength(2);
      expect(memoryOf(part).get("tree")).toBeGreaterThan(20 << 20);
    } finally {
      parent.stdin.end();
      await once(parent, "exit");
    }
  }, 60_000);

  it("is nothing for a process that isn't there", () => {
    expect(usageOf([{ name: "gone", pid: 2 ** 30 }]).get("gone")).toEqual({ cpuMs: 0, pids: [] });
  });
});

it("takes percentiles by nearest rank", () => {
  const values = Array.from({ length: 100 }, (_, i) => 100 - i);
  expect(latencyOf(values)).toEqual({ p50: 50, p95: 95, p99: 99 });
  expect(latencyOf([7])).toEqual({ p50: 7, p95: 7, p99: 7 });
  expect(latencyOf([]).p50).toBeNaN();
});
