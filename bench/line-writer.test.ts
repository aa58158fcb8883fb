import { afterAll, beforeAll, expect, it } from "vitest";
import type { Db } from "../store/db.ts";
import { siteDatabase } from "../test/support/parties.ts";
import { testKey } from "../test/support/memory-log.ts";
import { Acts, type ActDraft } from "../services/ledger/acts.ts";
import { LineWriter } from "./line-writer.ts";
import { createLedger } from "../services/ledger/sequencer.ts";

const ORIGIN = "factory-y.example/log";
const digest = (n: number): string => n.toString(16).padStart(64, "0");
let db: Db;
let acts: Acts;
let lines: LineWriter;

beforeAll(async () => {
  db = await siteDatabase();
  await createLedger({ db, origin: ORIGIN, signer: testKey("ed25519") });
  acts = new Acts({ db, origin: ORIGIN, party: "factory-y" });
  lines = new LineWriter(db, acts);
});
afterAll(async () => {
  acts.close();
  await db.end();
});

function draft(n: number, prev?: string): ActDraft<"intent"> {
  return {
    type: "intent",
    workflowId: "lot/L1",
    stepKey: `intent-${n}`,
    subject: [{ name: "L1", digest: { sha256: digest(n) } }],
    ...(prev === undefined ? {} : { prev: [{ origin: ORIGIN, leafHash: prev }] }),
    fields: { lot: "L1", manifest: digest(n), tbsRoot: digest(n), count: 1 },
  };
}
const transactions = async (): Promise<number> =>
  (await db.query<{ n: number }>("SELECT count(*) AS n FROM ledger_pending")).rows[0]!.n;

it("records those who come together in few transactions, each with its own answer", async () => {
  const before = await transactions();
  const recorded = await Promise.all(Array.from({ length: 1000 }, (_, n) => lines.record(draft(n))));
  expect(recorded.every(({ first }) => first)).toBe(true);
  expect(new Set(recorded.map(({ leafHash }) => leafHash)).size).toBe(1000);
  expect(await acts.find("lot/L1", "intent-777")).toMatchObject({ leafHash: recorded[777]!.leafHash });
  // A row of the queue holds what a transaction queued together.
  expect((await transactions()) - before).toBeLessThan(50);
});

it("refuses a draft that doesn't hold to its own caller alone", async () => {
  const other = { ...draft(1), fields: { ...draft(1).fields, count: 2 } };
  const asked = [draft(2000), draft(2001, digest(99)), draft(2002), other, draft(2003), draft(2003)];
  const results = await Promise.allSettled(asked.map((one) => lines.record(one)));
  expect(
    results.map((one) => (one.status === "fulfilled" ? one.value.first : (one.reason as { code: string }).code)),
  ).toEqual([true, "act-invalid", true, "act-conflict", true, false]);
});

it("says so when the database is out of reach, and goes on when it is back", async () => {
  let broken = true;
  const failing = new Proxy(db, {
    get: (target, name) =>
      name === "connect" && broken ? async () => Promise.reject(new Error("gone")) : Reflect.get(target, name, target),
  });
  const writer = new LineWriter(failing, acts);
  await expect(writer.record(draft(3000))).rejects.toThrow("gone");
  broken = false;
  await expect(writer.record(draft(3000))).resolves.toMatchObject({ first: true });
});
