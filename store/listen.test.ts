import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { testDatabase } from "../test/support/index.ts";
import { connect, type Db } from "./db.ts";
import { keepListening } from "./listen.ts";

it("listens again after its connection broke, also when the first way back was barred", async () => {
  const db = connect((await testDatabase()).url, { max: 4 });
  let refusals = 0;
  let connects = 0;
  const doorway = {
    connect: async () => {
      connects++;
      if (refusals-- > 0) throw new Error("the server is starting up");
      return db.connect();
    },
  } as unknown as Db;
  let heard = 0;
  const subscription = await keepListening(doorway, "news", () => void heard++);
  try {
    await db.query("NOTIFY news");
    await until(() => heard === 1);
    refusals = 1;
    await db.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN news'");
    await until(async () => {
      await db.query("NOTIFY news");
      return heard > 1;
    });
    expect(connects).toBe(3);
  } finally {
    subscription.close();
  }
  await until(async () => (await listeners(db)) === 0);
  await db.end();
});

const listeners = async (db: Db): Promise<number> =>
  (await db.query("SELECT 1 FROM pg_stat_activity WHERE query = 'LISTEN news'")).rowCount ?? 0;

async function until(done: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 15_000; !(await done()); await sleep(50)) {
    if (Date.now() > deadline) throw new Error("not in time");
  }
}
