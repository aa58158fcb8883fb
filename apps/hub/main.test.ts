import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { startTestHub } from "../../test/support/hub-process.ts";
import { PROJECT_ROOT, tempDir } from "../../test/support/index.ts";

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
