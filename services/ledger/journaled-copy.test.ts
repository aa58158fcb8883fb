import { createHash, randomBytes } from "node:crypto";
import { appendFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { equalBytes } from "../../lib/domain/bytes.ts";
import { nodeVerify } from "../../hsm/verify.ts";
import { auditLog, type LogAudit } from "../../lib/ledger/audit-log.ts";
import { signCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { TreeEdge } from "../../lib/ledger/edge.ts";
import { ed25519Raw, KEY_TYPE, noteKey } from "../../lib/ledger/note.ts";
import type { FetchResource } from "../../lib/ledger/reader.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import { tempDir } from "../../test/support/index.ts";
import { testKey } from "../../test/support/memory-log.ts";
import { journaledSource } from "./copy-source.ts";
import { folderSource } from "./export.ts";
import type * as files from "./files.ts";
import type { JournalRecord } from "./journal-codec.ts";
import { heldSize, JournaledCopy } from "./journaled-copy.ts";
import { nodeSha256 } from "./sha256.ts";

const steps = vi.hoisted(() => ({ left: Infinity }));
vi.mock("./files.ts", async (original) => {
  const real = await original<typeof files>();
  const step =
    <A extends unknown[], R>(work: (...args: A) => R) =>
    (...args: A): R => {
      if (steps.left-- <= 0) throw new Error("crash");
      return work(...args);
    };
  return { ...real, writeOnce: step(real.writeOnce), syncFolder: step(real.syncFolder) };
});

const ORIGIN = "factory-y.example/log";
const signer = testKey("ed25519");
const log = noteKey(ORIGIN, KEY_TYPE.ed25519, ed25519Raw(signer.spki));

/** What a sequencer would append, one record a batch. */
class Batches {
  readonly #edge = new TreeEdge(0, [], nodeSha256);
  readonly blobs: Uint8Array[] = [];

  async next(count: number, blobs = 0): Promise<JournalRecord> {
    const from = this.#edge.size;
    const entries = Array.from({ length: count }, (_, i) => Buffer.from(`entry ${from + i}`));
    this.#edge.append(entries.map((entry) => leafHash(entry, nodeSha256)));
    const { size } = this.#edge;
    const note = await signCheckpoint({ origin: ORIGIN, size, root: this.#edge.root() }, signer);
    const added = Array.from({ length: blobs }, () => randomBytes(20));
    this.blobs.push(...added);
    return { from, to: size, note, entries, blobs: added };
  }
}

const taken: JournaledCopy[] = [];
async function take(folder: string, size: number): Promise<JournaledCopy> {
  const copy = await JournaledCopy.take(folder, size);
  taken.push(copy);
  return copy;
}
const audit = (fetch: FetchResource): Promise<LogAudit> =>
  auditLog({ fetch, log, verify: nodeVerify, sha256: nodeSha256 });
const copyOf = (folder: string): FetchResource => journaledSource(folder, folderSource(folder));
const journalFiles = (folder: string): string[] =>
  readdirSync(join(folder, "journal"), { recursive: true, encoding: "utf8" })
    .filter((path) => /\/\d+$/.test(path))
    .sort()
    .map((path) => join(folder, "journal", path));

async function assertWhole(folder: string, size: number, blobs: readonly Uint8Array[], fetch = copyOf(folder)) {
  expect(await audit(fetch)).toMatchObject({ ok: true, entries: size });
  for (const blob of blobs) {
    const path = `blobs/${createHash("sha256").update(blob).digest("hex")}`;
    expect(equalBytes((await fetch(path))!, blob)).toBe(true);
  }
}

describe("a ledger's copy with a journal", () => {
  afterEach(async () => {
    steps.left = Infinity;
    for (const copy of taken.splice(0)) await copy.close();
  });

  it("is whole after every record, whether it is folded by then or not", async () => {
    const folder = tempDir("copy");
    const batches = new Batches();
    const copy = await take(folder, Infinity);
    for (const count of [1, 254, 1, 1, 0, 600, 30, 256]) {
      const record = await batches.next(count, 1);
      await copy.append(record);
      await assertWhole(folder, record.to, batches.blobs);
      if (count === 1) await copy.settle();
      await assertWhole(folder, record.to, batches.blobs);
      expect(await heldSize(folder)).toBe(record.to);
    }
    await copy.close();
    expect(readdirSync(join(folder, "journal"))).toEqual([]);
    await assertWhole(folder, 1143, batches.blobs, folderSource(folder));
  });

  it("loses nothing when its process ends anywhere in folding, or in folding that again", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 5 }),
        fc.array(fc.nat(16), { maxLength: 4 }),
        async (counts, crashes) => {
          const folder = tempDir("copy");
          const batches = new Batches();
          let size = 0;
          let copy = await take(folder, Infinity);
          for (const count of counts) {
            const record = await batches.next(count, 1);
            await copy.append(record);
            size = record.to;
            if (count % 3 === 0) await copy.settle();
          }
          for (const after of crashes) {
            steps.left = after;
            await copy.settle();
            steps.left = Infinity;
            await assertWhole(folder, size, batches.blobs);
            steps.left = after;
            const other = await take(folder, size).catch(() => undefined);
            steps.left = Infinity;
            await assertWhole(folder, size, batches.blobs);
            await copy.close();
            copy = other ?? (await take(folder, size));
            const record = await batches.next(7, 1);
            await copy.append(record);
            size = record.to;
          }
          await copy.close();
          await take(folder, size).then((last) => last.close());
          expect(readdirSync(join(folder, "journal"))).toEqual([]);
          await assertWhole(folder, size, batches.blobs, folderSource(folder));
        },
      ),
      { numRuns: 12 },
    );
  });

  it("lets nobody write who was left behind, nor take it back", async () => {
    const folder = tempDir("copy");
    const batches = new Batches();
    const zombie = await take(folder, 0);
    const first = await batches.next(3);
    await zombie.append(first);
    const leader = await take(folder, 3);
    expect(leader.held).toBe(3);
    const second = await batches.next(300);
    // What it writes is gone with its journal, and it hears of it before anything is published.
    await expect(zombie.append(second)).rejects.toMatchObject({ code: "state-conflict" });
    await leader.append(second);
    await leader.settle();
    const { note } = second;
    // What it was about to fold doesn't take the checkpoint back.
    await zombie.close();
    expect(Buffer.from(readFileSync(join(folder, "checkpoint")))).toEqual(Buffer.from(note));
    await expect(take(folder, 3)).rejects.toMatchObject({ code: "state-conflict" });
    await leader.append(await batches.next(1));
    await leader.close();
    await assertWhole(folder, 304, [], folderSource(folder));
  });

  it("takes what a leader had written that it took the journal from", async () => {
    const folder = tempDir("copy");
    const batches = new Batches();
    const before = await take(folder, 0);
    for (const count of [5, 6]) await before.append(await batches.next(count, 1));
    // Torn: its process ended while it wrote.
    appendFileSync(journalFiles(folder)[0]!, randomBytes(30));
    const after = await take(folder, 11);
    expect(after.held).toBe(11);
    await after.append(await batches.next(2));
    await after.close();
    await assertWhole(folder, 13, batches.blobs, folderSource(folder));
  });

  it("says so when a journal is damaged, or one is gone", async () => {
    const folder = tempDir("copy");
    const batches = new Batches();
    const copy = await take(folder, 0);
    for (const count of [5, 6]) await copy.append(await batches.next(count));
    const [file] = journalFiles(folder);
    const bytes = readFileSync(file!);
    const damaged = Uint8Array.from(bytes);
    damaged[100]! ^= 1;
    writeFileSync(file!, damaged);
    const looks = [heldSize, (at: string) => take(at, 11), (at: string) => copyOf(at)("checkpoint")];
    for (const look of looks) {
      await expect(look(folder)).rejects.toMatchObject({
        code: "input-invalid",
        message: expect.stringContaining("damaged"),
      });
    }
    writeFileSync(file!, bytes);
    expect(await heldSize(folder)).toBe(11);
    const next = await take(folder, 11);
    await batches.next(4);
    await next.append(await batches.next(4));
    await expect(take(folder, 19)).rejects.toMatchObject({
      code: "input-invalid",
      message: expect.stringContaining("lack the entries from 11 to 15"),
    });
  });

  it("goes on in a new file now and then, and removes what is folded", async () => {
    const folder = tempDir("copy");
    const batches = new Batches();
    const copy = await take(folder, 0);
    let size = 0;
    for (let n = 0; n < 6; n++) {
      const record = await batches.next(40);
      const blobs = [randomBytes(3 << 20)];
      await copy.append({ ...record, blobs });
      size = record.to;
      await assertWhole(folder, size, blobs);
    }
    await copy.settle();
    expect(journalFiles(folder)).toHaveLength(1);
    await copy.close();
    await assertWhole(folder, size, [], folderSource(folder));
  });

  it("doesn't fold what isn't what was signed", async () => {
    const folder = tempDir("copy");
    const copy = await take(folder, 0);
    const record = await new Batches().next(2);
    await copy.append({ ...record, entries: [record.entries[0]!, Buffer.from("another")] });
    await copy.settle();
    expect(copy.broken).toBe(true);
    await copy.close();
    await expect(take(folder, 2)).rejects.toMatchObject({ code: "ledger-forked" });
  });
});
