import { cpSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { nodeSha256 } from "../services/ledger/sha256.ts";
import { leafHash } from "../lib/ledger/tree.ts";
import { utf8 } from "../lib/domain/bytes.ts";
import { tempDir, testDatabase } from "../test/support/index.ts";
import { connect, inTransaction, migrate, type Db } from "./db.ts";
import { certifiedKeys, findIssuances, lockUnsigned, releasedDevices } from "./issuance.ts";
import { readIncluded, removePending, takePending } from "./ledger.ts";
import { countLot } from "./lots.ts";

/** What a database holds when a migration that reshapes its rows comes. */

const RESHAPING = ["011-ledger-rows.sql", "040-lean-rows.sql"];
/** From here on all of them. */
const LATER = "150-certificate-rows.sql";
const entries = ["a", "b", "c", "d"].map((text) => utf8(`{"${text}":{"lot":"lot","profile":{}}}`));
const keys = entries.map((_, i) => Buffer.alloc(32, i + 1));
const hash = (byte: string): string => byte.repeat(64);
let db: Db;

beforeAll(async () => {
  db = connect((await testDatabase()).url);
  const before = join(tempDir("migrations"), "before");
  cpSync(join(import.meta.dirname, "migrations"), before, { recursive: true });
  for (const name of readdirSync(before)) if (RESHAPING.includes(name) || name >= LATER) rmSync(join(before, name));
  await migrate(db, before);
  await db.query("INSERT INTO ledger_head (origin, size, root) VALUES ('x', 2, $1)", [Buffer.alloc(32)]);
  for (const [i, entry] of entries.entries()) {
    await db.query(
      "INSERT INTO ledger_act (retry_key, type, entry, leaf_hash, prev) VALUES ($1, 'certified', $2, $3, $4)",
      [keys[i], entry, leafHash(entry, nodeSha256), i === 3 ? [keys[0], keys[1]] : []],
    );
    if (i === 3) await db.query("UPDATE ledger_act SET type = 'injected' WHERE retry_key = $1", [keys[i]]);
  }
  for (const i of [0, 1]) {
    const values = [i, keys[i], leafHash(entries[i]!, nodeSha256)];
    await db.query("INSERT INTO ledger_leaf (leaf_index, retry_key, leaf_hash) VALUES ($1, $2, $3)", values);
  }
  await db.query("INSERT INTO ledger_checkpoint (size, root, note) VALUES (1, $1, '')", [Buffer.alloc(32)]);
  for (const i of [3, 2]) await db.query("INSERT INTO ledger_pending (retry_key) VALUES ($1)", [keys[i]]);
  await db.query(
    `INSERT INTO lot (id, state, builder, issuer, slots, profile, profile_sha256, layouts, origin, leaf_hash)
     VALUES ('lot', 'open', 'y', 'y', 5, 'p', '', '[]', 'x', '')`,
  );
  const intent = { leafHash: hash("a"), index: 3, path: [hash("b"), hash("c"), hash("b")] };
  const intakes = [
    { kind: "manifest", digest: hash("d"), index: 2, path: [hash("e"), hash("f")] },
    { kind: "manifest", digest: hash("d"), index: 0, path: [] },
    { kind: "est", csrSha256: hash("1"), clientCertificateSha256: hash("2") },
  ];
  for (const [i, intake] of intakes.entries()) {
    await db.query(
      `INSERT INTO device (id, spki_sha256, lot, slot, csr_sha256, stage, built, prev)
       VALUES ($1, $1, 'lot', $2, '', 'certified', true, $3)`,
      [`dev-${i}`, i + 1, { origin: "x", leafHash: hash("a") }],
    );
    await db.query(
      `INSERT INTO issuance (device, profile, lot, csr_sha256, issuer_key_id, serial, tbs, intent, intake, grant_origin,
         grant_leaf, certificate, certified_key, certified_leaf, released)
       VALUES ($1, 'p', 'lot', '', 'k', $1, 'tbs', $2, $3, 'x', '', 'der', $4, $5, $6)`,
      [`dev-${i}`, intent, intake, keys[i]!.toString("hex"), hash(String(i)), i === 0],
    );
  }
  for (const [i, [device, reason]] of [["open", null] as const, ["abandoned", "the key is gone"] as const].entries()) {
    await db.query(
      `INSERT INTO device (id, spki_sha256, lot, slot, csr_sha256, stage, built, prev)
       VALUES ($1, $1, 'lot', $2, '', 'built', true, '{}')`,
      [device, i + 4],
    );
    await db.query(
      `INSERT INTO issuance (device, profile, lot, csr_sha256, issuer_key_id, serial, tbs, intent, intake, grant_origin,
         grant_leaf, abandoned)
       VALUES ($1, 'p', 'lot', '', 'k', $1, 'tbs', $2, $3, 'x', '', $4)`,
      [device, intent, intakes[0], reason],
    );
  }
  await migrate(db);
});
afterAll(() => db.end());

it("keeps intents, intakes and releases of a database that was filled before its rows became leaner", async () => {
  const found = await findIssuances(db, "p", ["dev-0", "dev-1", "dev-2"]);
  expect(found.map(({ intent }) => intent)).toEqual(
    found.map(() => ({ leafHash: hash("a"), index: 3, path: [hash("b"), hash("c"), hash("b")] })),
  );
  const intakes = new Map(found.map((issuance) => [issuance.device, issuance.intake]));
  expect(intakes.get("dev-0")).toEqual({ kind: "manifest", digest: hash("d"), index: 2, path: [hash("e"), hash("f")] });
  expect(intakes.get("dev-1")).toEqual({ kind: "manifest", digest: hash("d"), index: 0, path: [] });
  // dev-1 is in the tree and dev-2 waits for it; the checkpoint covers neither.
  expect([...(await releasedDevices(db, "p", ["dev-0", "dev-1", "dev-2"]))]).toEqual(["dev-0"]);
  expect(
    await readIncluded(
      db,
      keys.map((key) => key.toString("hex")),
    ),
  ).toHaveLength(1);
  expect(await countLot(db, "lot")).toMatchObject({ built: 5, certified: 1, released: 0, refused: 0 });
});

it("keeps certificates, and intents without one, of a database that was filled before they had rows of their own", async () => {
  const found = await findIssuances(db, "p", ["dev-0", "dev-2", "open", "abandoned"]);
  const byDevice = new Map(found.map((issuance) => [issuance.device, issuance]));
  for (const i of [0, 2]) {
    const { certificate, certifiedKey } = byDevice.get(`dev-${i}`)!;
    expect(Buffer.from(certificate!).toString()).toBe("der");
    expect(certifiedKey).toBe(keys[i]!.toString("hex"));
  }
  expect(byDevice.get("open")).toMatchObject({ certificate: null, certifiedKey: null, abandoned: null });
  expect(byDevice.get("abandoned")).toMatchObject({ certificate: null, abandoned: "the key is gone" });
  expect(await certifiedKeys(db, "p", ["dev-0", "open"])).toEqual([keys[0]!.toString("hex")]);
  const { rows } = await db.query("SELECT device, certified_leaf FROM issuance WHERE certified_leaf IS NOT NULL");
  expect(new Map(rows.map((row) => [row.device, row.certified_leaf])).get("dev-2")).toBe(hash("2"));
  await inTransaction(db, async (tx) =>
    expect([...(await lockUnsigned(tx, "p", ["dev-0", "dev-1", "dev-2"])).keys()]).toEqual([]),
  );
});

it("takes the acts that waited then, in their order", async () => {
  await inTransaction(db, async (tx) => {
    const pending = await takePending(tx, 10);
    expect(pending.map((act) => Buffer.from(act.retryKey))).toEqual([keys[3], keys[2]]);
    expect(pending.every((act) => act.intact)).toBe(true);
    expect(pending[0]!.prev.map((p) => Buffer.from(p, "hex"))).toEqual([keys[0], keys[1]]);
    await removePending(
      tx,
      pending.map((act) => act.id),
    );
  });
  expect((await db.query("SELECT 1 FROM ledger_pending")).rowCount).toBe(0);
});
