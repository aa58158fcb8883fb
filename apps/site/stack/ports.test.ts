import { readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { tempDir } from "../../../test/support/index.ts";
import { isPortFree, rememberedPorts } from "./ports.ts";

async function occupied<T>(port: number, run: () => Promise<T>): Promise<T> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  try {
    return await run();
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
}

describe("rememberedPorts", () => {
  it("gives the same distinct ports after a restart, and adds new names", async () => {
    const file = join(tempDir("ports"), "state", "ports.json");
    const first = await rememberedPorts(file, ["gateway", "temporal", "postgres"]);
    expect(new Set(Object.values(first)).size).toBe(3);
    const second = await rememberedPorts(file, ["postgres", "gateway", "hub"]);
    expect(second).toMatchObject({ postgres: first.postgres, gateway: first.gateway });
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({ ...first, hub: second.hub });
    expect(statSync(file).mode & 0o777).toBe(0o600);
  });

  it("chooses another port when somebody has taken ours, and remembers that one", async () => {
    const file = join(tempDir("ports"), "ports.json");
    const { gateway } = await rememberedPorts(file, ["gateway"]);
    const moved = await occupied(gateway, async () => {
      expect(await isPortFree(gateway)).toBe(false);
      return rememberedPorts(file, ["gateway"]);
    });
    expect(moved.gateway).not.toBe(gateway);
    expect(await rememberedPorts(file, ["gateway"])).toEqual(moved);
  });

  it("refuses a damaged file instead of moving every service", async () => {
    const file = join(tempDir("ports"), "ports.json");
    for (const text of ["{", '{"gateway":0}', '{"gateway":"80"}', "[]"]) {
      writeFileSync(file, text);
      await expect(rememberedPorts(file, ["gateway"])).rejects.toMatchObject({ code: "input-invalid" });
    }
  });
});
