import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { toBase64, utf8 } from "../../../lib/domain/bytes.ts";
import { signCheckpoint } from "../../../lib/ledger/checkpoint.ts";
import { cosign, withSignatures } from "../../../lib/ledger/cosignature.ts";
import { ed25519Raw, formatVkey, KEY_TYPE, noteKey, parseNote } from "../../../lib/ledger/note.ts";
import { formatTlogProof } from "../../../lib/ledger/proof.ts";
import { LogReader } from "../../../lib/ledger/reader.ts";
import { exportLedger } from "../../../services/ledger/export.ts";
import { nodeSha256 } from "../../../services/ledger/sha256.ts";
import { MemoryLog, opensslVerify, testKey } from "../../support/memory-log.ts";
import { tempDir, tool } from "../../support/index.ts";
import { storedLog } from "../../support/stored-log.ts";

/** Our logs, read by golang.org/x/mod/sumdb, and by transparency-dev's formats, merkle and tessera's fsck. */

const SIZES = [0, 1, 2, 255, 256, 257, 1000, 65_535, 65_536, 65_537, 70_000];

let peer: string;
beforeAll(() => {
  peer = join(tempDir("peer"), "ledger");
  execFileSync(tool("go"), ["build", "-mod=readonly", "-o", peer, "."], { cwd: import.meta.dirname, stdio: "inherit" });
}, 300_000);

const second = testKey("p256");
const witnesses = ["witness.example/one", "witness.example/two"].map((name) => {
  const signer = testKey("ed25519");
  return { name, signer, key: noteKey(name, KEY_TYPE.cosignature, ed25519Raw(signer.spki)) };
});

interface StaticLog {
  readonly log: MemoryLog;
  readonly folder: string;
  /** of every key that has signed the checkpoint */
  readonly vkeys: string[];
}

function put(folder: string, path: string, bytes: Uint8Array | string): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), bytes);
}

async function writeLog(size: number): Promise<StaticLog> {
  const log = new MemoryLog("factory-y.example/log");
  // In two batches: the second continues partial tiles of the first.
  const entries = Array.from({ length: size }, (_, i) => utf8(`entry ${i} ${"x".repeat(i % 300)}`));
  if (size > 1) await log.append(entries.slice(0, Math.floor(size / 3)));
  await log.append(entries.slice(log.entries.length));
  const folder = tempDir("log");
  for (const [path, bytes] of log.resources) put(folder, path, bytes);
  const reader = await LogReader.open({ fetch: log.fetch, log: log.key, verify: opensslVerify, sha256: nodeSha256 });

  // Signed by the log on two lines, and cosigned.
  let note = await signCheckpoint(reader.checkpoint, log.signer, second);
  const { text } = parseNote(note);
  for (const { name, signer } of witnesses) {
    note = withSignatures(note, [await cosign(text, name, signer, 1_790_000_000)]);
  }
  put(folder, "checkpoint", note);

  for (const index of new Set([0, Math.floor(size / 2), size - 1])) {
    if (index < 0 || index >= size) continue;
    const path = await reader.inclusionProof(index);
    put(folder, `${index}.tlog-proof`, formatTlogProof({ index, path, checkpoint: note }));
    const hashes = [await reader.leafHash(index), ...path];
    put(folder, `inclusion/${index}`, hashes.map((hash) => `${toBase64(hash)}\n`).join(""));
  }
  for (const old of new Set([0, 1, 255, 256, 257, Math.floor(size / 3), size - 1, size])) {
    if (old < 0 || old > size) continue;
    const hashes = [await reader.rootAt(old), ...(await reader.consistencyProof(old))];
    put(folder, `consistency/${old}`, hashes.map((hash) => `${toBase64(hash)}\n`).join(""));
  }
  const vkeys = [log.key, noteKey(log.key.name, KEY_TYPE.ecdsa, second.spki), ...witnesses.map(({ key }) => key)];
  return { log, folder, vkeys: vkeys.map(formatVkey) };
}

function judge({ folder, vkeys }: Pick<StaticLog, "folder" | "vkeys">): { status: number | null; out: string } {
  const { status, stdout, stderr } = spawnSync(peer, [folder, ...vkeys], { encoding: "utf8" });
  return { status, out: `${stdout}${stderr}`.trim() };
}

describe("sumdb, formats, merkle and fsck", () => {
  it.each(SIZES)("accept a log of %i entries, signed on two lines and cosigned twice", async (size) => {
    const written = await writeLog(size);
    const { log } = written;
    const reader = await LogReader.open({ fetch: log.fetch, log: log.key, verify: opensslVerify, sha256: nodeSha256 });
    const { status, out } = judge(written);
    expect(out).toContain(`${log.key.name} ${size} ${toBase64(reader.checkpoint.root)} `);
    expect(status, out).toBe(0);
    expect(out).toMatch(size === 0 ? /proofs=0 files=0\n/ : /proofs=[1-9]\d* files=[1-3]\n/);
    expect(out).toMatch(/signatures=4 inclusions=[0-3] consistencies=[1-8]$/m);
  });

  it("accept the folder that a site exports, while it grows", async () => {
    const stored = await storedLog();
    try {
      const folder = tempDir("export");
      const vkeys = [stored.key, noteKey(stored.key.name, KEY_TYPE.ecdsa, stored.second.spki)].map(formatVkey);
      for (const size of [200, 256, 600]) {
        await stored.grow(size - (await exportLedger(stored.db, folder)).size);
        expect((await exportLedger(stored.db, folder)).size).toBe(size);
        const { status, out } = judge({ folder, vkeys });
        expect(status, out).toBe(0);
        expect(out).toMatch(/signatures=2/);
      }
    } finally {
      await stored.close();
    }
  });

  it("refuse what we refuse: a changed entry, tile, proof or signature", async () => {
    const written = await writeLog(1000);
    const { folder, log, vkeys } = written;
    const files = ["tile/entries/001", "tile/0/002", "tile/1/000.p/3", "500.tlog-proof", "checkpoint"];
    for (const path of [...files, "inclusion/500", "consistency/333"]) {
      const file = join(folder, path);
      const good = readFileSync(file);
      const bad = Buffer.from(good);
      bad[60]! ^= 1;
      writeFileSync(file, bad);
      expect(judge(written), path).toMatchObject({ status: 1 });
      writeFileSync(file, good);
    }
    expect(judge(written).status).toBe(0);
    for (const [i, vkey] of [
      new MemoryLog(log.key.name).key,
      noteKey(log.key.name, 2, testKey("p256").spki),
    ].entries()) {
      expect(judge({ folder, vkeys: vkeys.with(i, formatVkey(vkey)) }).status).toBe(1);
    }
  });
});
