import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { afterEach, expect, it } from "vitest";
import { tempDir } from "../../../test/support/index.ts";
import { PARTIES } from "./example.ts";
import { freePort, isPortFree } from "./ports.ts";
import { Stack } from "./stack.ts";
import { removeState } from "./state.ts";

const squatters: Server[] = [];
const held = new Set<number>();
afterEach(async () => {
  for (const server of squatters.splice(0)) await new Promise((resolve) => server.close(resolve));
});

/** Somebody who listens from now on, where nobody does yet. */
async function squat(port: number): Promise<void> {
  const server = createServer((socket) => void socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ port, host: "127.0.0.1" }, resolve);
  });
  squatters.push(server);
  held.add(port);
}

it("starts with other ports when some are taken after they were chosen", async () => {
  const home = join(tempDir("stack"), "home");
  const chosen = (): Record<string, number> => JSON.parse(readFileSync(join(home, "ports.json"), "utf8"));
  const before = process.env["HUB_PORT"];
  process.env["HUB_PORT"] = "0";
  const amqp = await freePort();
  process.env["AMQP_PORT"] = String(amqp);
  const taking: Promise<void>[] = [];
  const first = new Map<string, number>();
  let sites = 0;
  const take = (...names: string[]): void => {
    for (const name of names) {
      first.set(name, chosen()[name]!);
      taking.push(squat(chosen()[name]!));
    }
  };
  try {
    const stack = await Stack.start({
      home,
      parties: PARTIES.slice(0, 1),
      onStep: (what) => {
        if (what === "Postgres and Temporal" && taking.length === 0) take("temporal-company-x", "postgres");
        if (what === "sites and hub" && ++sites === 1) take("gateway-company-x", "hub-mqtt");
      },
    });
    try {
      await Promise.all(taking);
      expect(held.size).toBe(4);
      for (const [name, port] of first) expect(chosen()[name], name).not.toBe(port);
      expect(stack.info.sites[0]!.url).toBe(`https://127.0.0.1:${chosen()["gateway-company-x"]}`);
      expect(stack.info.hub.mqtt).toBe(`127.0.0.1:${chosen()["hub-mqtt"]}`);
      expect(await isPortFree(amqp)).toBe(false);
    } finally {
      await stack.stop();
    }
  } finally {
    delete process.env["AMQP_PORT"];
    if (before === undefined) delete process.env["HUB_PORT"];
    else process.env["HUB_PORT"] = before;
    await removeState(home);
  }
}, 180_000);
