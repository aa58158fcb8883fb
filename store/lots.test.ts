import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { tempDir, testDatabase } from "../test/support/index.ts";
import { connect, inTransaction, migrate, type Db, type Tx } from "./db.ts";
import { advanceDevices, insertDevices, type NewDevice, type Stage } from "./devices.ts";
import { insertInjections, insertRun } from "./injections.ts";
import { countLot, foldTallies, insertLot } from "./lots.ts";

const hash = (n: number): string => n.toString(16).padStart(64, "0");
const ref = { origin: "x", leafHash: hash(1) };
let db: Db;

beforeAll(async () => {
  db = connect((await testDatabase()).url);
  await migrate(db);
  const profile = { name: "idevid", sha256: hash(2) };
  for (const id of ["a", "b"]) {
    await inTransaction(db, (tx) =>
      insertLot(tx, { id, builder: "y", issuer: "z", slots: 10_000, profile, layouts: [], ref }),
    );
    await insertRun(db, { id, lot: id });
  }
});
afterAll(() => db?.end());

const device = (lot: string, slot: number, stage: Stage): NewDevice => ({
  id: `${lot}-${slot}`,
  spkiSha256: `${lot}${hash(slot)}`,
  lot,
  slot,
  csrSha256: hash(slot),
  stage,
  prev: ref,
});

/** As it was counted before there were sums. */
async function counted(lot: string) {
  const { rows } = await db.query(
    `SELECT count(*) FILTER (WHERE built) AS built, count(*) FILTER (WHERE NOT held) AS released,
       count(*) FILTER (WHERE NOT built) AS received,
       count(*) FILTER (WHERE stage IN ('certified', 'injected', 'installed')) AS certified,
       count(*) FILTER (WHERE EXISTS (SELECT 1 FROM injection j WHERE j.device = d.id AND j.leaf_hash IS NOT NULL))
         AS injected,
       count(*) FILTER (WHERE stage = 'installed') AS installed, 0 AS refused
     FROM device d WHERE lot = $1`,
    [lot],
  );
  return rows[0] as Record<string, number>;
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
const add = (tx: Tx, lot: string, slots: number[], stage: Stage) =>
  insertDevices(
    tx,
    slots.map((slot) => device(lot, slot, stage)),
  );
const move = (tx: Tx, lot: string, slots: number[], stage: Stage) =>
  advanceDevices(
    tx,
    stage,
    ref.origin,
    slots.map((slot) => ({ id: `${lot}-${slot}`, leafHash: ref.leafHash })),
  );
const inject = (tx: Tx, lot: string, slots: number[], good: boolean) =>
  insertInjections(
    tx,
    lot,
    slots.map((slot) => ({
      device: `${lot}-${slot}`,
      ...(good
        ? { receipt: {} as never, imagePath: "x", leafHash: hash(slot) }
        : { error: { code: "internal", message: "x" } }),
    })),
  );

it("counts a lot's devices as reading them all would, whatever was written, at once, taken back or folded", async () => {
  const rollback = new Error("taken back");
  const write = (work: (tx: Tx) => Promise<unknown>) => inTransaction(db, work);
  await Promise.all([
    write((tx) => add(tx, "a", range(0, 300), "built")),
    write((tx) => add(tx, "a", range(300, 500), "built")),
    write((tx) => add(tx, "b", range(0, 100), "received")),
    write(async (tx) => {
      await add(tx, "a", range(600, 700), "built");
      throw rollback;
    }).catch((error: unknown) => expect(error).toBe(rollback)),
  ]);
  // Some of them are there already.
  await write((tx) => add(tx, "a", range(400, 550), "built"));
  expect(await countLot(db, "a")).toMatchObject({ built: 550, certified: 0 });
  await Promise.all([
    write((tx) => move(tx, "a", range(0, 200), "certified")),
    write((tx) => move(tx, "a", range(200, 260), "certified")),
    write((tx) => move(tx, "b", range(0, 50), "certified")),
    foldTallies(db),
    countLot(db, "a").then(({ built }) => expect(built).toBe(550)),
  ]);
  await write(async (tx) => {
    await inject(tx, "a", range(0, 80), true);
    await inject(tx, "a", range(80, 100), false);
    await move(tx, "a", range(0, 80), "injected");
  });
  await write((tx) => inject(tx, "a", range(70, 100), true));
  await write((tx) => move(tx, "a", range(0, 30), "installed"));
  await write((tx) => tx.query("UPDATE device SET held = false WHERE id = ANY($1)", [["a-1", "a-2", "b-1"]]));
  await write((tx) => tx.query("UPDATE device SET held = true WHERE id = 'a-2'"));
  await write((tx) => tx.query("DELETE FROM device WHERE id = 'a-549'"));
  for (let folded = 1, rounds = 0; folded > 0; rounds++) {
    for (const lot of ["a", "b"]) expect(await countLot(db, lot)).toEqual(await counted(lot));
    folded = await foldTallies(db);
    expect(rounds).toBeLessThan(3);
  }
  expect(await countLot(db, "a")).toEqual({
    ...{ built: 549, released: 1, received: 0, certified: 260, injected: 100, installed: 30, refused: 0 },
  });
  expect((await db.query("SELECT * FROM lot_tally")).rowCount).toBe(2);
});

it("is the same in a database that had devices before", async () => {
  const old = connect((await testDatabase()).url);
  try {
    const before = join(tempDir("migrations"), "before");
    cpSync(join(import.meta.dirname, "migrations"), before, { recursive: true });
    rmSync(join(before, "085-lot-tally.sql"));
    await migrate(old, before);
    for (const table of ["lot", "lot_slots", "injection_run", "device", "injection"]) {
      const { rows } = await db.query<Record<string, unknown>>(`SELECT to_jsonb(t) AS row FROM ${table} t`);
      const all = JSON.stringify(rows.map(({ row }) => row));
      await old.query(`INSERT INTO ${table} SELECT * FROM jsonb_populate_recordset(NULL::${table}, $1::jsonb)`, [all]);
    }
    await migrate(old);
    for (const lot of ["a", "b"]) expect(await countLot(old, lot)).toEqual(await countLot(db, lot));
  } finally {
    await old.end();
  }
});
