import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { nodeVerify } from "../../hsm/verify.ts";
import { toHex } from "../../lib/domain/bytes.ts";
import { auditLog } from "../../lib/ledger/audit-log.ts";
import { openCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { readCheckpoint, readHead } from "../../store/ledger.ts";
import { connect, type Db } from "../../store/db.ts";
import { tempDir, testDatabase } from "../../test/support/index.ts";
import { LedgerUnderFault } from "../../test/support/postgres/ledger-under-fault.ts";
import { PostgresProxy, STRIKES } from "../../test/support/postgres/proxy.ts";
import { POINTS, SequencerProcess, type Point } from "../../test/support/postgres/sequencer-process.ts";
import { Acts } from "./acts.ts";
import { journaledSource } from "./copy-source.ts";
import { LedgerCopy } from "./copy.ts";
import { folderSource } from "./export.ts";
import type { SequencerOptions } from "./sequencer.ts";
import { nodeSha256 } from "./sha256.ts";

/**
 * A round of the sequencer is some sixteen statements. Each of them is made to fail, as it can fail: not run, run and
 * the answer lost, refused, or left hanging; and the ledger goes on with every act in its place and no second history.
 */
const FAULTY = { sessionTimeoutMs: 300, retryMs: 10 };

describe("the sequencer, when a statement fails or its answer is lost", () => {
  let ledger: LedgerUnderFault;
  let proxy: PostgresProxy;
  let through: Db;
  /** the statements of one round, from the connection to the stored checkpoint */
  let round: readonly string[];

  beforeAll(async () => {
    const { url } = await testDatabase();
    ledger = await LedgerUnderFault.create(url);
    proxy = await PostgresProxy.start(url);
    through = connect(proxy.url, { max: 4 });
    // Some entries, so that a recovery has tiles to read.
    ledger.start(ledger.db);
    for (let n = 0; n < 3; n++) await ledger.wait(await ledger.record());
    await ledger.stopAll();
    const keys = await ledger.record();
    proxy.arm();
    ledger.start(through);
    await ledger.wait(keys);
    await ledger.stopAll();
    const stored = proxy.statements.findIndex((text) => text.includes("INSERT INTO ledger_checkpoint"));
    round = proxy.statements.slice(0, stored + 1);
  });
  afterEach(() => ledger.stopAll());
  afterAll(async () => {
    await ledger.close();
    await through.end();
    await proxy.stop();
  });

  it("writes everything that a checkpoint needs in one transaction, before the signature", () => {
    const names = round.map((text) => /^\s*(\w+(?: INTO \w+| ledger_head)?)/.exec(text)?.[1] ?? text);
    const begin = names.indexOf("BEGIN");
    const commit = names.indexOf("COMMIT");
    expect(begin).toBeGreaterThan(0);
    const transaction = round.slice(begin, commit).join("\n");
    for (const table of ["ledger_leaf", "ledger_tile", "ledger_head", "ledger_pending"]) {
      expect(transaction).toContain(table);
      const outside = [...round.slice(0, begin), ...round.slice(commit)].join("\n");
      expect(outside).not.toMatch(new RegExp(`(INSERT INTO|UPDATE|DELETE FROM) ${table}`));
    }
    expect(round.length).toBeGreaterThan(12);
  });

  for (const strike of STRIKES) {
    it(`goes on after each statement of a round: ${strike}`, async () => {
      for (let at = 0; at < round.length; at++) {
        // Every place where it can hang is tried below, with a second sequencer; alone it has to notice by itself.
        if (strike === "hang" && !/BEGIN|COMMIT|advisory|INTO ledger_checkpoint/.test(round[at]!)) continue;
        const before = (await readHead(ledger.db))!.size;
        const keys = await ledger.record();
        proxy.arm(at, strike);
        ledger.start(through, FAULTY);
        const included = await ledger.wait(keys);
        expect(proxy.struck, `${strike} at ${round[at]}`).toBe(true);
        expect(new Set(included.map(({ index }) => index)).size).toBe(keys.length);
        await ledger.stopAll();
        proxy.heal();
        expect((await readHead(ledger.db))!.size, `${strike} at ${round[at]}`).toBe(before + keys.length);
        expect((await readCheckpoint(ledger.db))!.size).toBe(before + keys.length);
      }
      expect(ledger.errors.filter((error) => (error as { code?: string }).code === "ledger-forked")).toEqual([]);
      await ledger.assertSound();
    });
  }

  it("hands over to a second sequencer wherever the first one's connection hangs", async () => {
    const folder = tempDir("copy");
    const copies = [0, 1].map(() => new LedgerCopy({ db: ledger.db, folder }));
    const [one, other] = copies.map((copy): Pick<SequencerOptions, "keep"> => ({ keep: (c) => copy.keep(c) }));
    for (let at = 0; at < round.length; at++) {
      const keys = await ledger.record();
      proxy.arm(at, "hang");
      // Only the server can end the first one's session: it doesn't hear that its client has given up.
      const first = ledger.start(through, { ...FAULTY, ...one });
      await expect.poll(() => proxy.struck, { interval: 5 }).toBe(true);
      ledger.start(ledger.db, { sessionTimeoutMs: 10_000, ...other });
      await ledger.wait(keys);
      proxy.heal();
      // Awake again, it stands by; what it had in hand is gone.
      await ledger.wait(await ledger.record());
      await first.stop();
      await ledger.stopAll();
      // Whoever of them led last: what was published is in the copy.
      const fetch = journaledSource(folder, folderSource(folder));
      const audit = await auditLog({ fetch, log: ledger.key, verify: nodeVerify, sha256: nodeSha256 });
      expect(audit).toMatchObject({ ok: true, entries: (await readCheckpoint(ledger.db))!.size });
    }
    for (const copy of copies) await copy.close();
    await ledger.assertSound();
  });

  it("records a signed act once, whatever became of each of the writer's statements", async () => {
    const acts = new Acts({ db: through, origin: ledger.acts.origin, party: "factory-y" });
    proxy.arm();
    await acts.recordSigned(ledger.signedDraft(), ledger.act);
    const statements = proxy.statements.length;
    expect(statements).toBeGreaterThan(5);
    ledger.start(ledger.db);
    for (const strike of ["refuse", "cut-before", "cut-after"] as const) {
      for (let at = 0; at < statements; at++) {
        const draft = ledger.signedDraft();
        proxy.arm(at, strike);
        await acts.recordSigned(draft, ledger.act).catch(() => undefined);
        expect(proxy.struck).toBe(true);
        proxy.arm();
        const again = await acts.recordSigned(draft, ledger.act);
        const [included] = await ledger.wait([again.retryKey]);
        expect(included!.leafHash).toBe(again.leafHash);
      }
    }
    const { rows } = await ledger.db.query("SELECT 1 FROM ledger_leaf GROUP BY retry_key HAVING count(*) > 1");
    expect(rows).toEqual([]);
    acts.close();
    await ledger.assertSound();
  });
});

describe("the sequencer's process, killed with -9 or standing still", () => {
  let ledger: LedgerUnderFault;
  let url: string;
  beforeAll(async () => {
    ({ url } = await testDatabase());
    ledger = await LedgerUnderFault.create(url);
  });
  afterEach(() => ledger.stopAll());
  afterAll(() => ledger.close());
  const child = (point: Point) =>
    new SequencerProcess({
      databaseUrl: url,
      origin: ledger.acts.origin,
      logKey: ledger.log.privateKey,
      actSpki: ledger.act.spki,
      point,
    });

  for (const end of ["kill", "freeze"] as const) {
    for (const point of POINTS) {
      it(`${end} when its batch is ${point}`, async () => {
        const before = (await readHead(ledger.db))!.size;
        const keys = await ledger.record();
        const running = child(point);
        const { size, note } = await running.reached();
        // Committed alone makes durable; stored alone publishes.
        expect((await readHead(ledger.db))!.size).toBe(point === "written" ? before : size);
        expect((await readCheckpoint(ledger.db))!.size).toBe(point === "stored" ? size : before);
        if (note) await sawNote(note);
        await running[end]();
        ledger.start(ledger.db);
        await ledger.wait(keys);
        await ledger.wait(await ledger.record());
        if (end === "freeze") await running.kill();
        await ledger.assertSound(before + 2 * keys.length);
      });
    }
  }

  /** The dead process's own signature counts too: whoever saw it must never see another history. */
  async function sawNote(note: Uint8Array): Promise<void> {
    const { size, root } = await openCheckpoint(note, ledger.key, nodeVerify);
    ledger.sawSignature(size, toHex(root));
  }
});
