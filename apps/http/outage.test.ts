import { describe, expect, it } from "vitest";
import { connect } from "../../store/db.ts";
import { testDatabase } from "../../test/support/index.ts";
import { freePort } from "../site/stack/ports.ts";
import { isOutage } from "./outage.ts";
import { problemOf } from "./problem.ts";

const failure = async (work: Promise<unknown>): Promise<unknown> => work.then(() => undefined).catch((e: unknown) => e);

describe("an outage of ours", () => {
  it("is what a client says of a Postgres that isn't there, or cuts the connection", async () => {
    const nowhere = connect(`postgres://nobody@127.0.0.1:${await freePort()}/x`);
    expect(problemOf(await failure(nowhere.query("SELECT 1")))).toMatchObject({
      status: 503,
      code: "component-unreachable",
    });
    await nowhere.end();

    const { url, adminUrl, name } = await testDatabase();
    const db = connect(url, { max: 1 });
    const admin = connect(adminUrl, { max: 1 });
    await db.query("SELECT 1");
    const asleep = failure(db.query("SELECT pg_sleep(30)"));
    await new Promise((resolve) => setTimeout(resolve, 200));
    await admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", [name]);
    expect(isOutage(await asleep)).toBe(true);

    // In somebody's hands, and idle: no error that nobody listens to may end the process.
    const held = await db.connect();
    await held.query("BEGIN");
    await admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", [name]);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(isOutage(await failure(held.query("SELECT 1")))).toBe(true);
    held.release(true);
    await db.end();
    await admin.end();
  });

  it("is found behind other errors, and nothing else is taken for it", () => {
    const refused = Object.assign(new Error("connect"), { code: "ECONNREFUSED" });
    expect(isOutage(new Error("Failed to start Workflow", { cause: refused }))).toBe(true);
    expect(isOutage(Object.assign(new Error("unavailable"), { code: 14 }))).toBe(true);
    expect(isOutage(Object.assign(new Error("duplicate key"), { code: "23505" }))).toBe(false);
    expect(isOutage(new TypeError("undefined is not a function"))).toBe(false);
    expect(isOutage("ECONNREFUSED")).toBe(false);
    const loop: Error = new Error("loop");
    loop.cause = loop;
    expect(isOutage(loop)).toBe(false);
  });
});
