import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import { webCryptoVerify } from "../../lib/pki/verify.ts";
import { noteKey, KEY_TYPE } from "../../lib/ledger/note.ts";
import { LogReader } from "../../lib/ledger/reader.ts";
import { batchAnswers, insertBatch, pendingBatches, type NewBatch } from "../../store/batches.ts";
import { connect, inTransaction, migrate, type Db } from "../../store/db.ts";
import { insertTelemetry, listTelemetry } from "../../store/hub-telemetry.ts";
import { migrateHub } from "../../store/hub.ts";
import { insertLot } from "../../store/lots.ts";
import { findInboxByNumber, nextMessage, queueMessage } from "../../store/messages.ts";
import { deliverAgain } from "../../store/recovery.ts";
import { testDatabase } from "../../test/support/index.ts";
import { lotSite, ownLot, testDevices } from "../../test/support/lot-site.ts";
import { submitCsrs } from "../intake/submit.ts";
import { issueBatch } from "../issuing/certify.ts";
import { recordBuilt } from "../issuing/built.ts";
import { databaseSource } from "../ledger/serve.ts";
import { nodeSha256 } from "../ledger/sha256.ts";
import { hubPrunings } from "./hub.ts";
import { prune } from "./prune.ts";
import { sitePrunings, type SiteRetention } from "./site.ts";

const KEEP: SiteRetention = {
  batchDays: 30,
  messageDays: 400,
  checkpointDays: 90,
  checkpointSeconds: 60,
  witnessedDays: 90,
  witnessedSeconds: 3600,
};
const AT_ONCE: SiteRetention = { ...KEEP, batchDays: 0, messageDays: 0, checkpointDays: 0, witnessedDays: 0 };
const quick = { pauseMs: 0 };
const text = (bytes: string) => Buffer.from(bytes);
let db: Db;

beforeAll(async () => {
  db = connect((await testDatabase()).url);
  await migrate(db);
});
afterAll(() => db?.end());

const ids = async (sql: string): Promise<unknown[]> => (await db.query<{ id: unknown }>(sql)).rows.map(({ id }) => id);

describe("what a site prunes", () => {
  it("empties batches that are done and old, and knows them for good", async () => {
    const profile = { name: "idevid", sha256: "" };
    const ref = { origin: "x", leafHash: "" };
    await inTransaction(db, (tx) =>
      insertLot(tx, { id: "lot", builder: "y", issuer: "y", slots: 9, profile, layouts: [], ref }),
    );
    const batch = (id: string, manifest = id): NewBatch => ({
      id,
      lot: "lot",
      kind: "certify",
      manifest: text(manifest),
      manifestSha256: Buffer.from(nodeSha256(text(manifest))).toString("hex"),
      keyId: "",
      items: [text("csr 1"), text("csr 2")],
    });
    const names = ["done-old", "done-old-no-blob", "done-young", "pending-old"];
    for (const id of names) await inTransaction(db, (tx) => insertBatch(tx, batch(id)));
    await db.query("UPDATE batch SET state = 'done' WHERE id LIKE 'done%'");
    await db.query("UPDATE batch SET received = now() - interval '31 days' WHERE id LIKE '%old%'");
    await db.query(
      "INSERT INTO ledger_blob (sha256, bytes) SELECT decode(manifest_sha256, 'hex'), manifest FROM batch WHERE id = 'done-old'",
    );
    await db.query(
      "INSERT INTO batch_result (batch, index, code, message) VALUES ('done-old', 0, 'csr-invalid', 'no')",
    );
    const before = await batchAnswers(db, "done-old");

    expect(await prune(sitePrunings(db, KEEP), { ...quick, rows: 1 })).toEqual({ "done batches": 2 });
    expect(await ids("SELECT id FROM batch WHERE items = '' ORDER BY id")).toEqual(["done-old", "done-old-no-blob"]);
    expect(await ids("SELECT id FROM batch WHERE manifest = ''")).toEqual(["done-old"]);
    expect(await batchAnswers(db, "done-old")).toEqual(before);
    expect((await pendingBatches(db, 0)).map(({ id }) => id)).toEqual(["pending-old"]);
    // Posted again: the same one is known, another one under its name refused.
    await inTransaction(db, async (tx) => expect(await insertBatch(tx, batch("done-old"))).toBe(false));
    const other = inTransaction(db, (tx) => insertBatch(tx, batch("done-old", "another")));
    await expect(other).rejects.toMatchObject({ code: "already-exists" });
    expect(await prune(sitePrunings(db, KEEP), quick)).toEqual({});
  });

  it("empties messages that had their effect, and sends and takes none twice", async () => {
    for (const party of ["calm", "busy"]) {
      await db.query(
        `INSERT INTO peer (party, direction, contact, act_spki, act_key_id) VALUES ($1, 'child', '{}', '', '')`,
        [party],
      );
    }
    const queue = (key: string) => {
      const body = text(`body ${key}`);
      return queueMessage(db, {
        id: randomUUID(),
        receiver: "calm",
        type: "handoff-receipt",
        retryKey: key,
        body,
        bodySha256: "x",
      });
    };
    for (const key of ["old", "young", "queued"]) await queue(key);
    await db.query(
      `UPDATE outbox SET state = 'delivered', epoch = 1, sequence = ordinal, envelope = body, envelope_sha256 = 'd',
         delivered = now() - CASE retry_key WHEN 'old' THEN interval '401 days' ELSE interval '1 day' END
       WHERE retry_key <> 'queued'`,
    );
    for (const [sequence, sender, days, applied] of [
      [1, "calm", 401, true],
      [2, "calm", 399, true],
      [3, "calm", 401, false],
      [1, "busy", 401, true],
    ] as const) {
      await db.query(
        `INSERT INTO inbox (sender, epoch, sequence, id, type, envelope, envelope_sha256, body, received, applied)
         VALUES ($1, 1, $2, $3, 'handoff-release', 'e', 'digest', 'b', now() - make_interval(days => $4),
           CASE WHEN $5 THEN now() - make_interval(days => $4) END)`,
        [sender, sequence, randomUUID(), days, applied],
      );
    }
    // An offer that its operator hasn't taken yet is read from its message.
    await db.query(
      `INSERT INTO handoff (id, direction, lot, peer, state, count, list_root, list, terms, time)
       VALUES ('h', 'in', 'lot', 'busy', 'offered', 1, '', '', '{}', now())`,
    );
    const prunings = sitePrunings(db, KEEP);
    expect(await prune(prunings, quick)).toEqual({ "delivered messages": 1, "handled messages": 1 });
    expect(await ids("SELECT retry_key AS id FROM outbox WHERE body = '' AND envelope = ''")).toEqual(["old"]);
    expect(await ids("SELECT sender || sequence AS id FROM inbox WHERE body = ''")).toEqual(["calm1"]);
    await db.query("UPDATE handoff SET state = 'received' WHERE id = 'h'");
    expect(await prune(prunings, quick)).toEqual({ "handled messages": 1 });

    await queue("old");
    expect(await ids("SELECT count(*) AS id FROM outbox WHERE retry_key = 'old'")).toEqual([1]);
    expect((await nextMessage(db, "calm"))?.body).toEqual(text("body queued"));
    expect(await findInboxByNumber(db, "calm", 1, 1)).toMatchObject({ envelopeSha256: "digest" });
    // A peer that forgot what is kept no longer hears of it; one that forgot less gets all of it.
    const last = { party: "calm", epoch: 1 };
    await expect(deliverAgain(db, { ...last, sequence: 0 })).rejects.toMatchObject({ code: "state-conflict" });
    expect(await deliverAgain(db, { ...last, sequence: 1 })).toBe(1);
  });

  it.each([1000, 7, 2])("keeps checkpoints that bound times and acts, in steps of %i", async (rows) => {
    await db.query("TRUNCATE ledger_cosignature, ledger_cosigned, ledger_checkpoint");
    // One every 7 s, 100 days ago; a quorum for every third; and the last ones young.
    const DAY = 86_400_000;
    const began = Math.floor((Date.now() - 100 * DAY) / 60_000) * 60_000;
    const all = Array.from({ length: 300 }, (_, i) => ({ size: 10 * (i + 1), at: began + 7_000 * i }));
    const young = Array.from({ length: 20 }, (_, i) => ({ size: 3001 + i, at: Date.now() - DAY + 7_000 * i }));
    for (const { size, at } of [...all, ...young]) {
      const time = new Date(at);
      await db.query("INSERT INTO ledger_checkpoint (size, root, note, signed_at) VALUES ($1, '', '', $2)", [
        size,
        time,
      ]);
      if (size % 3 === 0) await db.query("INSERT INTO ledger_cosigned (size, since) VALUES ($1, $2)", [size, time]);
      if (size % 2 === 0 || size % 3 === 0) {
        await db.query(
          "INSERT INTO ledger_cosignature (size, name, key_id, signature, time) VALUES ($1, $2, 'k', '', 0)",
          [size, size < 2000 ? "gone" : "here"],
        );
      }
    }
    const cosigned = async () =>
      (await db.query<{ size: number; at: Date }>("SELECT size, since AS at FROM ledger_cosigned ORDER BY size")).rows;
    const before = await cosigned();
    const gone = await prune(sitePrunings(db, KEEP), { ...quick, rows });
    expect(gone).toMatchObject({ checkpoints: 200, "cosigned checkpoints": expect.any(Number) as number });
    const after = await cosigned();
    expect(after.length).toBeLessThan(60);
    // Whatever an act's index: the bounds of its time move by the span at most, and never the wrong way.
    for (let index = 0; index < 3018; index++) {
      const bound = (list: typeof after) => ({
        from: list.findLast(({ size }) => size <= index)?.at.getTime() ?? -Infinity,
        to: list.find(({ size }) => size > index)?.at.getTime() ?? Infinity,
      });
      const [was, is] = [bound(before), bound(after)];
      expect(is.from).toBeLessThanOrEqual(was.from);
      expect(is.to).toBeGreaterThanOrEqual(was.to);
      if (is.from !== -Infinity) expect(was.from - is.from).toBeLessThanOrEqual(60_000);
      else expect(was.from - began).toBeLessThanOrEqual(60_000);
      expect(is.to - was.to).toBeLessThanOrEqual(60_000);
    }
    const kept = new Set(await ids("SELECT size AS id FROM ledger_checkpoint"));
    for (const { size } of young) expect(kept).toContain(size);
    for (const { size } of after) expect(kept).toContain(size);
    expect(kept.size).toBe(after.length + young.filter(({ size }) => size % 3 !== 0).length);
    expect(await prune(sitePrunings(db, KEEP), { ...quick, rows })).toEqual({});
  });

  it("keeps the newest checkpoint where no quorum ever cosigned, and a witness's last word", async () => {
    await db.query("TRUNCATE ledger_cosignature, ledger_cosigned, ledger_checkpoint");
    for (const size of [1, 2, 3, 4]) {
      await db.query("INSERT INTO ledger_checkpoint (size, root, note) VALUES ($1, '', '')", [size]);
    }
    expect(await prune(sitePrunings(db, AT_ONCE), quick)).toMatchObject({ checkpoints: 3 });
    expect(await ids("SELECT size AS id FROM ledger_checkpoint")).toEqual([4]);
    for (const size of [5, 6, 7]) {
      await db.query("INSERT INTO ledger_checkpoint (size, root, note) VALUES ($1, '', '')", [size]);
      await db.query("INSERT INTO ledger_cosigned (size) VALUES ($1)", [size]);
    }
    const said = "INSERT INTO ledger_cosignature (size, name, key_id, signature, time) VALUES ($1, $2, 'k', '', 0)";
    for (const [size, name] of [
      [5, "left"],
      [6, "here"],
      [7, "here"],
    ]) {
      await db.query(said, [size, name]);
    }
    const span = { ...AT_ONCE, checkpointSeconds: 86_400 };
    await prune(sitePrunings(db, span), quick);
    expect(await ids("SELECT size AS id FROM ledger_checkpoint ORDER BY size")).toEqual(expect.arrayContaining([5, 7]));
    expect(await ids("SELECT size AS id FROM ledger_cosignature WHERE name = 'left'")).toEqual([5]);
  });

  it.each([1000, 3])("thins out what it witnessed, each log by itself, in steps of %i", async (rows) => {
    await db.query("TRUNCATE witness_checkpoint");
    const hour = 3_600_000;
    const began = Math.floor((Date.now() - 100 * 24 * hour) / hour) * hour;
    const witness = (origin: string, size: number, at: number) =>
      db.query("INSERT INTO witness_checkpoint (origin, size, note, cosigned) VALUES ($1, $2, '', $3)", [
        origin,
        size,
        new Date(at),
      ]);
    for (const origin of ["a", "b"]) {
      for (let i = 0; i < 24; i++) await witness(origin, 1 + i, began + i * 600_000);
    }
    const prunings = sitePrunings(db, KEEP);
    const sizes = (origin: string) =>
      ids(`SELECT size AS id FROM witness_checkpoint WHERE origin = '${origin}' ORDER BY size`);
    await prune(prunings, { ...quick, rows });
    // The last one isn't judged while it is the newest.
    for (const origin of ["a", "b"]) expect(await sizes(origin)).toEqual([6, 12, 18, 23, 24]);
    for (let i = 24; i < 30; i++) await witness("a", 1 + i, began + i * 600_000);
    await prune(prunings, { ...quick, rows });
    expect(await sizes("a")).toEqual([6, 12, 18, 24, 29, 30]);
    expect(await sizes("b")).toEqual([6, 12, 18, 23, 24]);
  });
});

it("leaves a lot's answers, its ledger and its retries as they were", async () => {
  const site = await lotSite();
  try {
    await ownLot(site, "kept", 20);
    const csrs = testDevices(20).map(({ csr }) => csr);
    const station = site.client("station");
    const manifests = new Map<string, Uint8Array>();
    for (const kind of ["built", "certify"] as const) {
      manifests.set(kind, await csrManifest(station, kind, "kept", csrs));
      const { id } = await submitCsrs(site.intake, "kept", manifests.get(kind)!, csrs);
      await (kind === "built" ? recordBuilt : issueBatch)(site.issuing, id);
    }
    const { id } = await submitCsrs(site.intake, "kept", manifests.get("certify")!, csrs);
    const answers = await batchAnswers(site.db, id);
    expect(answers.answers.every(({ certificate }) => certificate !== null)).toBe(true);
    const read = async () => {
      const log = noteKey(site.origin, KEY_TYPE.ed25519, site.log.spki.slice(-32));
      const reader = await LogReader.open({ fetch: databaseSource(site.db), log, verify: webCryptoVerify });
      const entries = [];
      for await (const { bytes } of reader.entries()) entries.push(Buffer.from(bytes).toString("base64"));
      return entries;
    };
    const before = await read();

    const gone = await prune(sitePrunings(site.db, AT_ONCE), quick);
    expect(gone).toMatchObject({ "done batches": 2 });
    expect(await batchAnswers(site.db, id)).toEqual(answers);
    expect(await read()).toEqual(before);
    // The same batch again, and an activity that comes late.
    expect((await submitCsrs(site.intake, "kept", manifests.get("certify")!, csrs)).id).toBe(id);
    await issueBatch(site.issuing, id);
    expect(await batchAnswers(site.db, id)).toEqual(answers);
    // The same CSRs in a new batch get the certificates that they have.
    const anew = await submitCsrs(site.intake, "kept", await csrManifest(station, "certify", "kept", csrs), csrs);
    await issueBatch(site.issuing, anew.id);
    expect((await batchAnswers(site.db, anew.id)).answers).toEqual(answers.answers);
  } finally {
    await site.close();
  }
}, 60_000);

it("a hub forgets old telemetry, oldest first", async () => {
  const hub = connect((await testDatabase()).url);
  try {
    await migrateHub(hub);
    const message = (n: number) => ({ deviceId: "dev", system: {}, properties: {}, body: randomBytes(n) });
    await insertTelemetry(
      hub,
      Array.from({ length: 50 }, (_, i) => message(i)),
    );
    await hub.query("UPDATE hub_telemetry SET received_at = now() - interval '31 days' WHERE octet_length(body) < 30");
    expect(await prune(hubPrunings(hub, { telemetryDays: 30 }), { ...quick, rows: 7 })).toEqual({ telemetry: 30 });
    expect((await listTelemetry(hub, "dev", 100)).map(({ body }) => body.length)).toEqual(
      Array.from({ length: 20 }, (_, i) => 49 - i),
    );
    expect(await prune(hubPrunings(hub, { telemetryDays: 30 }), quick)).toEqual({});
  } finally {
    await hub.end();
  }
});
