import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { toBase64, utf8 } from "../../../lib/domain/bytes.ts";
import { formatVkey } from "../../../lib/ledger/note.ts";
import { formatTlogProof } from "../../../lib/ledger/proof.ts";
import { LogReader } from "../../../lib/ledger/reader.ts";
import { MemoryLog, opensslVerify } from "../../support/memory-log.ts";
import { tempDir, tool } from "../../support/index.ts";

/** Our logs, read by golang.org/x/mod/sumdb. */

let peer: string;
beforeAll(() => {
  peer = join(tempDir("peer"), "ledger");
  execFileSync(tool("go"), ["build", "-mod=readonly", "-o", peer, "."], { cwd: import.meta.dirname, stdio: "inherit" });
}, 300_000);

async function writeLog(size: number): Promise<{ log: MemoryLog; folder: string }> {
  const log = new MemoryLog("factory-y.example/log");
  // In two batches: the second continues partial tiles of the first.
  const entries = Array.from({ length: size }, (_, i) => utf8(`entry ${i} ${"x".repeat(i % 300)}`));
  if (size > 1) await log.append(entries.slice(0, Math.floor(size / 3)));
  await log.append(entries.slice(log.entries.length));
  const folder = tempDir("log");
  for (const [path, bytes] of log.resources) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), bytes);
  }
  const reader = await LogReader.open({ fetch: log.fetch, log: log.key, verify: opensslVerify });
  for (const index of [0, Math.floor(size / 2), size - 1]) {
    if (index < 0 || index >= size) continue;
    const proof = { index, path: await reader.inclusionProof(index), checkpoint: reader.checkpoint.note };
    writeFileSync(join(folder, `${index}.tlog-proof`), formatTlogProof(proof));
  }
  return { log, folder };
}

function judge(folder: string, log: MemoryLog): { status: number | null; out: string } {
  const { status, stdout, stderr } = spawnSync(peer, [folder, formatVkey(log.key)], { encoding: "utf8" });
  return { status, out: `${stdout}${stderr}`.trim() };
}

describe("golang.org/x/mod/sumdb", () => {
  it.each([0, 1, 2, 255, 256, 257, 1000, 65_537])("accepts a log of %i entries", async (size) => {
    const { log, folder } = await writeLog(size);
    const reader = await LogReader.open({ fetch: log.fetch, log: log.key, verify: opensslVerify });
    const { status, out } = judge(folder, log);
    expect(out).toContain(`${log.key.name} ${size} ${toBase64(reader.checkpoint.root)} `);
    expect(status).toBe(0);
    expect(out).toMatch(size === 0 ? /proofs=0 files=0$/ : /proofs=[1-9]\d* files=[1-3]$/);
  });

  it("refuses what we refuse: a changed entry, tile, proof or signature", async () => {
    const { log, folder } = await writeLog(1000);
    for (const path of ["tile/entries/001", "tile/0/002", "tile/1/000.p/3", "500.tlog-proof", "checkpoint"]) {
      const file = join(folder, path);
      const good = readFileSync(file);
      const bad = Buffer.from(good);
      bad[60]! ^= 1;
      writeFileSync(file, bad);
      expect(judge(folder, log), path).toMatchObject({ status: 1 });
      writeFileSync(file, good);
    }
    expect(judge(folder, log).status).toBe(0);
    expect(judge(folder, new MemoryLog(log.key.name)).status).toBe(1);
  });
});
