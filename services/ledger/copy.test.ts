import { createHash, randomBytes } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { nodeVerify } from "../../hsm/verify.ts";
import { auditLog } from "../../lib/ledger/audit-log.ts";
import { edgeTiles, tilePath } from "../../lib/ledger/tiles.ts";
import { inTransaction } from "../../store/db.ts";
import { readCheckpoint, readHead, storeBlob } from "../../store/ledger.ts";
import { tempDir, testDatabase } from "../../test/support/index.ts";
import { LedgerUnderFault, ORIGIN } from "../../test/support/postgres/ledger-under-fault.ts";
import { LedgerCopy } from "./copy.ts";
import { journaledSource } from "./copy-source.ts";
import { folderSource } from "./export.ts";
import { nodeSha256 } from "./sha256.ts";

describe("a ledger's copy outside its database", () => {
  let ledger: LedgerUnderFault;
  beforeAll(async () => {
    ledger = await LedgerUnderFault.create((await testDatabase()).url);
  });
  afterEach(() => ledger.stopAll());
  afterAll(() => ledger.close());

  const audit = (folder: string) =>
    auditLog({ fetch: copyOf(folder), log: ledger.key, verify: nodeVerify, sha256: nodeSha256 });
  const copyOf = (folder: string) => journaledSource(folder, folderSource(folder));
  const grow = async (count: number): Promise<void> => {
    const drafts = Array.from({ length: count }, () => ledger.draft());
    const lines = await inTransaction(ledger.db, (tx) => ledger.acts.recordLines(tx, drafts));
    await ledger.wait(lines.map((line) => line.retryKey));
  };
  /** Paths of the partial tiles in a folder, below `tile/`. */
  const partials = (folder: string): string[] =>
    readdirSync(join(folder, "tile"), { recursive: true, encoding: "utf8" }).filter((path) => /\.p\/\d+$/.test(path));

  it("is whole at every checkpoint before that is published, and holds no tile that a wider one replaced", async () => {
    const folder = tempDir("copy");
    let copy = new LedgerCopy({ db: ledger.db, folder });
    const kept: number[] = [];
    const keep = async (checkpoint: { size: number; note: Uint8Array }): Promise<void> => {
      await copy.keep(checkpoint);
      kept.push(checkpoint.size);
      expect((await readCheckpoint(ledger.db))!.size).toBeLessThan(checkpoint.size);
      expect(await audit(folder)).toMatchObject({ ok: true, entries: checkpoint.size });
    };
    ledger.start(ledger.db, { keep, seen: async () => [] });
    for (const count of [1, 2, 200, 53, 1, 300, 5]) await grow(count);
    await ledger.stopAll();
    // Another process goes on where the first one was, which had no time to fold what it had appended.
    const former = copy;
    copy = new LedgerCopy({ db: ledger.db, folder });
    ledger.start(ledger.db, { keep });
    await grow(77);
    const { size } = (await readHead(ledger.db))!;
    expect(kept.at(-1)).toBe(size);
    expect(await audit(folder)).toMatchObject({ ok: true, entries: size });
    await former.close();
    await copy.close();
    expect(readdirSync(join(folder, "journal"))).toEqual([]);
    expect(await audit(folder)).toMatchObject({ ok: true, entries: size });
    const edge = edgeTiles(size).flatMap((tile) => [
      tilePath(tile),
      ...(tile.level === 0 ? [tilePath({ ...tile, level: "entries" })] : []),
    ]);
    expect(partials(folder).sort()).toEqual(edge.map((path) => path.slice("tile/".length)).sort());
    expect(ledger.errors).toEqual([]);
    await ledger.assertSound(size);
  });

  it("isn't taken back by a sequencer that was left behind", async () => {
    const folder = tempDir("copy");
    const [zombie, leader] = [0, 1].map(() => new LedgerCopy({ db: ledger.db, folder }));
    const before = (await readCheckpoint(ledger.db))!;
    ledger.start(ledger.db);
    await grow(2);
    const after = (await readCheckpoint(ledger.db))!;
    await leader!.keep(after);
    await expect(zombie!.keep(before)).rejects.toMatchObject({ code: "state-conflict" });
    expect(await audit(folder)).toMatchObject({ ok: true, entries: after.size });
    await leader!.close();
  });

  it("has every blob whose transaction was over, also one that took long", async () => {
    const folder = tempDir("copy");
    const copy = new LedgerCopy({ db: ledger.db, folder });
    const checkpoint = (await readCheckpoint(ledger.db))!;
    const put = async (tx: Parameters<typeof storeBlob>[0]): Promise<string> => {
      const bytes = randomBytes(40);
      const digest = createHash("sha256").update(bytes).digest();
      await storeBlob(tx, digest, bytes);
      return `blobs/${digest.toString("hex")}`;
    };
    const has = (paths: readonly string[]) =>
      Promise.all(paths.map(async (path) => (await copyOf(folder)(path)) !== undefined));
    const slow = await ledger.db.connect();
    await slow.query("BEGIN");
    const late = await put(slow);
    const early = await put(ledger.db);
    await copy.keep(checkpoint);
    expect(await has([early, late])).toEqual([true, false]);
    const between = await put(ledger.db);
    await copy.keep(checkpoint);
    await slow.query("COMMIT");
    slow.release();
    expect(await has([between, late])).toEqual([true, false]);
    await copy.keep(checkpoint);
    expect(await has([late])).toEqual([true]);
    await copy.close();
    expect([early, between, late].map((path) => existsSync(join(folder, path)))).toEqual([true, true, true]);
  });

  it("withholds what it can't keep, and nothing is lost by it", async () => {
    const folder = tempDir("copy");
    const copy = new LedgerCopy({ db: ledger.db, folder });
    const before = (await readCheckpoint(ledger.db))!.size;
    let failures = 3;
    const keep = async (checkpoint: { size: number; note: Uint8Array }): Promise<void> => {
      if (failures-- > 0) throw new Error("ENOSPC: no space left on device");
      expect((await readCheckpoint(ledger.db))!.size).toBe(before);
      await copy.keep(checkpoint);
      // The copy has it, and the process ends before the database does.
      if (failures === -1) throw new Error("crash");
    };
    const { spki } = ledger.log;
    const seen = async () => [(await copy.seen(ORIGIN, spki, nodeVerify)) ?? { where: "nowhere", size: 0 }];
    ledger.errors.length = 0;
    ledger.start(ledger.db, { keep, seen, retryMs: 5 });
    await grow(3);
    expect(ledger.errors.length).toBeGreaterThanOrEqual(4);
    expect(ledger.errors.map((error) => (error as Error).message)).not.toContain("ledger-behind");
    await ledger.assertSound(before + 3);
    expect((await copy.seen(ORIGIN, spki, nodeVerify))!.size).toBe(before + 3);
    await expect(copy.keep({ size: before, note: new Uint8Array() })).rejects.toMatchObject({ code: "state-conflict" });
    await copy.close();
  });
});
