import { afterAll, beforeAll, expect, it } from "vitest";
import { inTransaction, onceCommitted, type Db } from "../../store/db.ts";
import { PENDING_CHANNEL } from "../../store/ledger.ts";
import { listen, type Subscription } from "../../store/listen.ts";
import { testKey } from "../../test/support/memory-log.ts";
import { siteDatabase } from "../../test/support/parties.ts";
import { Acts, type ActDraft } from "./acts.ts";
import { createLedger } from "./sequencer.ts";

const ORIGIN = "factory-y.example/log";
let db: Db;
let subscription: Subscription;
let heard = 0;

beforeAll(async () => {
  db = await siteDatabase();
  await createLedger({ db, origin: ORIGIN, signer: testKey("ed25519") });
  subscription = await listen(
    db,
    PENDING_CHANNEL,
    () => void heard++,
    () => undefined,
  );
});
afterAll(async () => {
  subscription.close();
  await db.end();
});

let next = 0;

function draft(): ActDraft<"intent"> {
  const digest = (next++).toString(16).padStart(64, "0");
  return {
    type: "intent",
    workflowId: "lot/L1",
    stepKey: `intent-${next}`,
    time: "2026-09-01T12:00:00.000Z",
    subject: [{ name: "L1", digest: { sha256: digest } }],
    fields: { lot: "L1", manifest: digest, tbsRoot: digest, count: 1 },
  };
}

const actsWith = (wake?: () => boolean): Acts =>
  new Acts({ db, origin: ORIGIN, party: "factory-y", ...(wake && { wake }) });

it("wakes this process's sequencer once the act is durable, and notifies nobody", async () => {
  const seen: Promise<number>[] = [];
  const pending = async () =>
    (await db.query<{ n: number }>("SELECT count(*)::int AS n FROM ledger_pending")).rows[0]!.n;
  const before = await pending();
  heard = 0;
  const acts = actsWith(() => {
    seen.push(pending());
    return true;
  });
  await inTransaction(db, async (tx) => {
    await acts.recordLine(tx, draft());
    await acts.recordLine(tx, draft());
    expect(seen).toEqual([]);
  });
  // Once a transaction, and what wakes it is there to be seen by others.
  expect(await Promise.all(seen)).toEqual([before + 2]);
  await db.query("SELECT 1");
  expect(heard).toBe(0);
  acts.close();
});

it("wakes nobody when the transaction is rolled back, or the act was there", async () => {
  let woken = 0;
  const acts = actsWith(() => ++woken > 0);
  const one = draft();
  const failed = inTransaction(db, async (tx) => {
    await acts.recordLine(tx, one);
    throw new Error("given up");
  });
  await expect(failed).rejects.toThrow("given up");
  expect(woken).toBe(0);
  for (const first of [true, false]) {
    expect(await inTransaction(db, (tx) => acts.recordLine(tx, one))).toMatchObject({ first });
    expect(woken).toBe(1);
  }
  acts.close();
});

it("notifies with the commit of a transaction that somebody else leads", async () => {
  const acts = actsWith(() => true);
  const client = await db.connect();
  heard = 0;
  await client.query("BEGIN");
  await acts.recordLine(client, draft());
  expect(onceCommitted(client, () => undefined)).toBe(false);
  await client.query("COMMIT");
  client.release();
  await expect.poll(() => heard).toBe(1);
  acts.close();
});

it("notifies other processes after commits, many of them at once", async () => {
  const acts = actsWith();
  heard = 0;
  await Promise.all(Array.from({ length: 60 }, () => inTransaction(db, (tx) => acts.recordLine(tx, draft()))));
  await expect.poll(() => heard).toBeGreaterThan(0);
  expect(heard).toBeLessThan(60);
  acts.close();
});
