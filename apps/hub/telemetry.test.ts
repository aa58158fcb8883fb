import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connect, type Db } from "../../store/db.ts";
import { listTelemetry } from "../../store/hub-telemetry.ts";
import { migrateHub } from "../../store/hub.ts";
import { testDatabase } from "../../test/support/index.ts";
import { TelemetryWriter } from "./telemetry.ts";

let db: Db;
let url: string;

beforeAll(async () => {
  ({ url } = await testDatabase());
  db = connect(url);
  await migrateHub(db);
});

afterAll(() => db?.end());

const message = (text: string, property = "true") => ({
  deviceId: "dev-1",
  system: {},
  properties: { property },
  body: Buffer.from(text),
});

describe("the telemetry writer", () => {
  it("has every message committed when its write resolves", async () => {
    const writer = new TelemetryWriter(db);
    await Promise.all(
      Array.from({ length: 1200 }, async (_, i) => {
        await writer.write(message(`m${i}`));
      }),
    );
    expect(writer.written).toBe(1200);
    const rows = await listTelemetry(db, "dev-1", 5000);
    expect(new Set(rows.map(({ body }) => Buffer.from(body).toString())).size).toBe(1200);
    await writer.idle();
  });

  it("refuses the one message that the database can't hold, and keeps its neighbours", async () => {
    const writer = new TelemetryWriter(db);
    const results = await Promise.allSettled([
      writer.write(message("before")),
      writer.write(message("bad", "nul \0 inside")),
      writer.write(message("after")),
    ]);
    expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    const bodies = (await listTelemetry(db, "dev-1", 2)).map(({ body }) => Buffer.from(body).toString());
    expect(bodies.sort()).toEqual(["after", "before"]);
  });

  it("acknowledges nothing while the database is away", async () => {
    const away = connect(url);
    await away.end();
    const writer = new TelemetryWriter(away);
    const results = await Promise.allSettled([writer.write(message("lost 1")), writer.write(message("lost 2"))]);
    for (const result of results) {
      expect(result).toMatchObject({ status: "rejected", reason: { code: "component-unreachable" } });
    }
    expect(writer.written).toBe(0);
  });
});
