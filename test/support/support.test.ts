import { execFileSync } from "node:child_process";
import { Client, Connection } from "@temporalio/client";
import { describe, expect, it } from "vitest";
import { pingPostgres } from "../../store/provision.ts";
import { softhsmDir, testDatabase, testTemporal, tool } from "./index.ts";

describe("what suites are given", () => {
  it("keeps one suite's database role out of another's database", async () => {
    const [mine, other] = await Promise.all([testDatabase(), testDatabase()]);
    expect(await pingPostgres(mine.url)).toBe(true);
    const trespass = new URL(mine.url);
    trespass.pathname = new URL(other.url).pathname;
    await expect(pingPostgres(trespass.href)).rejects.toThrow(/permission denied for database/);
  });

  it("gives each caller a Temporal namespace that takes workflows at once", async () => {
    const [mine, other] = await Promise.all([testTemporal({ searchAttributes: { LotId: "Keyword" } }), testTemporal()]);
    expect(mine.namespace).not.toBe(other.namespace);
    const connection = await Connection.connect({ address: mine.address });
    try {
      const { workflow } = new Client({ connection, namespace: mine.namespace });
      const handle = await workflow.start("none", { taskQueue: "none", workflowId: "support" });
      await expect(workflow.getHandle("support").describe()).resolves.toMatchObject({ type: "none" });
      await handle.terminate();
      const elsewhere = new Client({ connection, namespace: other.namespace }).workflow;
      await expect(elsewhere.getHandle("support").describe()).rejects.toThrow(/not found/);
    } finally {
      await connection.close();
    }
  });

  it("gives a token store of its own, also to child processes", () => {
    const hsm = softhsmDir();
    expect(process.env["SOFTHSM2_CONF"]).toBe(hsm.conf);
    const init = ["--init-token", "--free", "--label", "mine", "--so-pin", "12345678", "--pin", "1234"];
    execFileSync(tool("softhsm2-util"), init, { env: { ...process.env, ...hsm.env } });
    const listed = execFileSync(tool("pkcs11-tool"), ["--module", hsm.module, "-T"], { encoding: "utf8" });
    expect(listed).toMatch(/token label\s*:\s*mine/);
  });

  it("names the command that installs a missing tool", () => {
    expect(() => tool("no-such-judge")).toThrow("apt-get install -y no-such-judge");
  });
});
