import { EventEmitter } from "node:events";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connect, type Db } from "../../store/db.ts";
import { migrateHub } from "../../store/hub.ts";
import { testDatabase } from "../../test/support/index.ts";
import { Registry } from "./registry.ts";

let db: Db;

beforeAll(async () => {
  db = connect((await testDatabase()).url);
  await migrateHub(db);
});

afterAll(() => db?.end());

class Line extends EventEmitter {
  destroyed = false;
  destroy(): void {
    this.destroyed = true;
    this.emit("close");
  }
}

describe("looking again at who is connected", () => {
  it("ends no device that comes in while the database is asked, and has it looked at again", async () => {
    const registry = new Registry(db, pino({ level: "silent" }));
    const [coming, here] = [new Line(), new Line()];
    const entry = registry.live.enter("coming", coming);
    registry.live.enter("here", here).admitted = true;
    const looking = registry.recheck(["coming", "here"]);
    // As when its own answer overtakes: the database has it, but hadn't when it was asked.
    entry.admitted = true;
    await looking;
    expect([coming.destroyed, entry.touched]).toEqual([false, true]);
    // The database has none of them.
    expect(here.destroyed).toBe(true);
    await registry.recheck(["coming"]);
    expect(coming.destroyed).toBe(true);
  });
});
