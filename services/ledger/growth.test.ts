import { createHash } from "node:crypto";
import { afterAll, beforeAll, expect, it } from "vitest";
import { inTransaction, type Db, type Tx } from "../../store/db.ts";
import {
  readActs,
  readEntries,
  readHopeless,
  readIncluded,
  readNewlyIncluded,
  takePending,
  unknownLeafHashes,
  unsequencedLeafHashes,
} from "../../store/ledger.ts";
import { siteDatabase } from "../../test/support/parties.ts";

/** What an append asks for must cost the same however long the log is: nothing reads a whole table. */

const LEAVES = 60_000;
const hash = (text: string): Uint8Array => createHash("sha256").update(text).digest();
let db: Db;

beforeAll(async () => {
  db = await siteDatabase();
  // As a log that has just grown: nothing has analysed its tables.
  await db.query("ALTER TABLE ledger_act SET (autovacuum_enabled = off)");
  await db.query("ALTER TABLE ledger_leaf SET (autovacuum_enabled = off)");
  await db.query(
    `INSERT INTO ledger_act (retry_key, type, entry, leaf_hash, prev)
     SELECT sha256(('key ' || n)::bytea), 'built', ('entry ' || n)::bytea, sha256(('leaf ' || n)::bytea), '{}'
     FROM generate_series(0, $1::int - 1) n`,
    [LEAVES],
  );
  await db.query(
    `INSERT INTO ledger_leaf (leaf_index, retry_key, leaf_hash)
     SELECT n, sha256(('key ' || n)::bytea), sha256(('leaf ' || n)::bytea) FROM generate_series(0, $1::int - 1) n`,
    [LEAVES],
  );
  await db.query(
    `INSERT INTO ledger_checkpoint (size, root, note) SELECT n, sha256('root'), 'note' FROM unnest($1::bigint[]) n`,
    [[LEAVES - 300, LEAVES]],
  );
});
afterAll(async () => {
  await db.end();
});

const some = (what: string, count: number): Uint8Array[] =>
  Array.from({ length: count }, (_, i) => hash(`${what} ${(i * 7919) % LEAVES}`));

const hex = (what: string, count: number): string[] => some(what, count).map((one) => Buffer.from(one).toString("hex"));

const asked: [string, (tx: Tx) => Promise<unknown>][] = [
  ["previous acts in the tree, one", (tx) => unsequencedLeafHashes(tx, hex("leaf", 1))],
  ["previous acts in the tree, many", (tx) => unsequencedLeafHashes(tx, hex("leaf", 256))],
  ["previous acts recorded, one", (tx) => unknownLeafHashes(tx, hex("leaf", 1))],
  ["previous acts recorded, many", (tx) => unknownLeafHashes(tx, hex("leaf", 256))],
  ["acts by retry key", (tx) => readActs(tx, some("key", 256))],
  ["refused acts by retry key", (tx) => readHopeless(tx, some("key", 256))],
  ["inclusion by retry key", (tx) => readIncluded(tx, hex("key", 256))],
  ["what checkpoints added", (tx) => readNewlyIncluded(tx, LEAVES - 300, 4096)],
  ["a bundle's entries", (tx) => readEntries(tx, 512, 768)],
];

it.each(asked)("reads no whole table: %s", async (_, ask) => {
  await inTransaction(db, async (tx) => {
    // Six times: from then on a named statement may keep one plan for all values.
    for (let time = 0; time < 6; time++) await ask(tx);
    const { rows } = await tx.query<{ relname: string; seq_tup_read: number }>(
      "SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables WHERE relname IN ('ledger_act', 'ledger_leaf') AND seq_tup_read > 0",
    );
    expect(rows).toEqual([]);
  });
});

it("reads no whole table: what is to be sequenced", async () => {
  await inTransaction(db, async (tx) => {
    await tx.query("INSERT INTO ledger_pending (retry_keys) VALUES ($1)", [Buffer.concat(some("key", 256))]);
    expect(await takePending(tx, 4096)).toHaveLength(256);
    const { rows } = await tx.query(
      "SELECT relname FROM pg_stat_xact_user_tables WHERE relname IN ('ledger_act', 'ledger_leaf') AND seq_tup_read > 0",
    );
    expect(rows).toEqual([]);
  });
});
