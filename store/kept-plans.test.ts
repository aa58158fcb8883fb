import { afterAll, beforeAll, expect, it } from "vitest";
import { testDatabase } from "../test/support/index.ts";
import { connect, inTransaction, withKeptPlans, type Db, type Queryable } from "./db.ts";

let db: Db;
beforeAll(async () => {
  db = connect((await testDatabase()).url, { max: 1 });
});
afterAll(() => db.end());

const mode = async (q: Queryable): Promise<string> =>
  (await q.query<{ mode: string }>("SELECT current_setting('plan_cache_mode') AS mode")).rows[0]!.mode;

it("keeps plans for what is inside, and for nothing after it, also when it fails", async () => {
  await inTransaction(db, async (tx) => {
    expect(await withKeptPlans(tx, () => mode(tx))).toBe("force_generic_plan");
    expect(await mode(tx)).toBe("force_custom_plan");
  });
  await expect(inTransaction(db, (tx) => withKeptPlans(tx, () => tx.query("SELECT 1 / 0")))).rejects.toThrow("zero");
  expect(await mode(db)).toBe("force_custom_plan");
});
