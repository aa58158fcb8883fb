import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loginUrl, startPostgres, type Postgres } from "../../apps/site/stack/postgres.ts";
import { isAlive } from "../../apps/site/stack/stack-file.ts";
import { nodeVerify } from "../../hsm/verify.ts";
import { auditLog } from "../../lib/ledger/audit-log.ts";
import { exportLedger, folderSource } from "../../services/ledger/export.ts";
import { nodeSha256 } from "../../services/ledger/sha256.ts";
import { tempDir } from "../support/index.ts";
import { LedgerUnderFault } from "../support/postgres/ledger-under-fault.ts";
import { SmallDisk } from "../support/small-disk.ts";

/** A real Postgres on a real file system without room: what it answers, and whether it stays up, is its own affair. */
describe("a ledger whose disk is full", () => {
  let disk: SmallDisk;
  let postgres: Postgres;
  let ledger: LedgerUnderFault;
  const places = tempDir("cluster");
  const start = (port?: number): Promise<Postgres> =>
    startPostgres({
      dataDir: join(disk.path, "postgres"),
      adminPasswordFile: join(places, "admin.password"),
      logFile: join(places, "postgres.log"),
      settings: { shared_buffers: "16MB", min_wal_size: "32MB", max_wal_size: "48MB", max_connections: "40" },
      ...(port === undefined ? {} : { port }),
    });

  beforeAll(async () => {
    disk = new SmallDisk(224);
    postgres = await start();
    const login = await postgres.ensureDatabase({ name: "factory_y", passwordFile: join(places, "db.password") });
    ledger = await LedgerUnderFault.create(loginUrl(login));
  });
  afterAll(async () => {
    disk?.empty();
    await ledger?.close();
    await postgres?.stop();
    disk?.remove();
  });

  it("publishes nothing that isn't durable, loses nothing it confirmed, and goes on when there is room", async () => {
    ledger.start(ledger.db);
    const confirmed: string[] = [];
    let refusals = 0;
    const answers = new Set<string>();
    const exported = join(disk.path, "export");
    for (let round = 0; round < 3; round++) {
      let writing = true;
      const writers = Array.from({ length: 4 }, async () => {
        while (writing) {
          try {
            const keys = await ledger.record();
            await ledger.wait(keys, 2000);
            confirmed.push(...keys);
          } catch (error) {
            refusals++;
            answers.add(String((error as { code?: string }).code));
            await sleep(20);
          }
        }
      });
      await sleep(500);
      disk.fill();
      const full = refusals;
      await expect.poll(() => refusals - full, { timeout: 60_000 }).toBeGreaterThan(20);
      await expect(exportLedger(ledger.db, exported)).rejects.toThrow(
        /ENOSPC|space|checkpoint|connect|recovery|terminat/i,
      );
      disk.empty();
      writing = false;
      await Promise.all(writers);
      if (postgres.pid !== undefined && !isAlive(postgres.pid)) {
        await postgres.child?.stop();
        postgres = await start(postgres.port);
      }
      await expect.poll(() => ledger.record().then((keys) => ledger.wait(keys)), { timeout: 60_000 }).toHaveLength(3);
    }
    expect(answers).toContain("53100");
    expect(confirmed.length).toBeGreaterThan(0);
    expect(await ledger.wait(confirmed)).toHaveLength(confirmed.length);
    await ledger.assertSound();
    const { size } = await exportLedger(ledger.db, exported);
    const audit = { fetch: folderSource(exported), log: ledger.key, verify: nodeVerify, sha256: nodeSha256 };
    expect(await auditLog(audit)).toMatchObject({ ok: true, entries: size });
  });
});
