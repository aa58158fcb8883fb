import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Client, Connection } from "@temporalio/client";
import { describe, expect, it } from "vitest";
import { tempDir } from "../../../test/support/index.ts";
import { freePort, isPortFree } from "./ports.ts";
import { startTemporal } from "./temporal.ts";

async function withClient<T>(address: string, run: (client: Client) => Promise<T>): Promise<T> {
  const connection = await Connection.connect({ address });
  try {
    return await run(new Client({ connection, namespace: "factory-y" }));
  } finally {
    await connection.close();
  }
}

describe("a site's Temporal dev server", () => {
  it("keeps workflows over a kill -9 of its supervisor, on the same port", async () => {
    const dir = tempDir("temporal");
    const options = {
      dbFile: join(dir, "temporal.db"),
      namespaces: ["factory-y"] as const,
      logFile: join(dir, "temporal.log"),
      port: await freePort(),
      searchAttributes: { LotId: "Keyword" },
    };
    const script = `
      import { startTemporal } from ${JSON.stringify(join(import.meta.dirname, "temporal.ts"))};
      await startTemporal(${JSON.stringify(options)});
      console.log("up");
    `;
    const supervisor = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await new Promise((resolve) => supervisor.stdout.once("data", resolve));
    await withClient(`127.0.0.1:${options.port}`, (client) =>
      client.workflow.start("lot", { workflowId: "lot/1", taskQueue: "none", searchAttributes: { LotId: ["1"] } }),
    );
    supervisor.kill("SIGKILL");
    while (!(await isPortFree(options.port))) await new Promise((resolve) => setTimeout(resolve, 50));

    const temporal = await startTemporal(options);
    expect(temporal.address).toBe(`127.0.0.1:${options.port}`);
    const described = await withClient(temporal.address, (client) => client.workflow.getHandle("lot/1").describe());
    expect(described.status.name).toBe("RUNNING");
    await temporal.stop();
    expect(temporal.child.running).toBe(false);
  });

  it("starts on a database file that a killed first start left half made", async () => {
    const dir = tempDir("temporal");
    const dbFile = join(dir, "temporal.db");
    writeFileSync(dbFile, "");
    const temporal = await startTemporal({ dbFile, namespaces: ["factory-y"], logFile: join(dir, "temporal.log") });
    await temporal.stop();
  });

  it("says what the server said when it can't come up", async () => {
    const dir = tempDir("temporal");
    const options = { namespaces: ["factory-y"] as const, logFile: join(dir, "log"), dbFile: "/proc/none/temporal.db" };
    await expect(startTemporal({ ...options, dbFile: join(dir, "db"), binary: "/bin/false" })).rejects.toMatchObject({
      code: "component-unreachable",
    });
  });
});
