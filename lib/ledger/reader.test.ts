import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { toHex, utf8 } from "../domain/bytes.ts";
import { MemoryLog, opensslVerify } from "../../test/support/memory-log.ts";
import { auditLog, type LogAuditOptions } from "./audit-log.ts";
import { httpSource } from "./http.ts";
import { LogReader } from "./reader.ts";
import { decodeBundle, encodeBundle, edgeTiles, parseTilePath, tilePath, tileWidth } from "./tiles.ts";
import { leafHash, verifyConsistency, verifyInclusion } from "./tree.ts";

const entries = (from: number, to: number): Uint8Array[] =>
  Array.from({ length: to - from }, (_, i) => utf8(`entry ${from + i}`));

async function logOf(...sizes: number[]): Promise<{ log: MemoryLog; notes: Uint8Array[]; options: LogAuditOptions }> {
  const log = new MemoryLog("factory-y.example/log");
  const notes: Uint8Array[] = [];
  let at = 0;
  for (const size of sizes) {
    notes.push(await log.append(entries(at, size)));
    at = size;
  }
  return { log, notes, options: { fetch: log.fetch, log: log.key, verify: opensslVerify } };
}

describe("tiles", () => {
  it("writes paths as the specification does, and reads only those", () => {
    expect(tilePath({ level: 0, index: 1_234_067, width: 256 })).toBe("tile/0/x001/x234/067");
    expect(tilePath({ level: 2, index: 0, width: 7 })).toBe("tile/2/000.p/7");
    expect(tilePath({ level: "entries", index: 1000, width: 255 })).toBe("tile/entries/x001/000.p/255");
    const id = fc.record({
      level: fc.oneof(fc.integer({ min: 0, max: 6 }), fc.constant("entries" as const)),
      index: fc.nat({ max: 2 ** 45 }),
      width: fc.integer({ min: 1, max: 256 }),
    });
    fc.assert(
      fc.property(id, (tile) => {
        expect(parseTilePath(tilePath(tile))).toEqual(tile);
      }),
    );
    for (const bad of [
      "tile/0/67",
      "tile/0/x000/067",
      "tile/0/067.p/256",
      "tile/0/067.p/0",
      "tile/0/067.p/07",
      "tile/7/000",
      "tile/0/x01/067",
      "tile/0/067/",
      "tile/entries/../checkpoint",
      `tile/0/${"x001/".repeat(30)}001`,
    ]) {
      expect(parseTilePath(bad), bad).toBeUndefined();
    }
  });

  it("knows a tree's tiles", () => {
    expect(edgeTiles(65_537)).toEqual([
      { level: 0, index: 256, width: 1 },
      { level: 2, index: 0, width: 1 },
    ]);
    expect(tileWidth(65_537, 1, 0)).toBe(256);
    expect(tileWidth(65_537, 1, 1)).toBe(0);
    expect(tileWidth(65_536, 0, 256)).toBe(0);
  });

  it("round-trips bundles and takes exactly the entries asked for", () => {
    const list = fc.array(fc.uint8Array({ maxLength: 600 }), { maxLength: 256 });
    fc.assert(
      fc.property(list, fc.nat(), (bundle, cut) => {
        const bytes = encodeBundle(bundle);
        expect(decodeBundle(bytes, bundle.length).map(toHex)).toEqual(bundle.map(toHex));
        const refusal = expect.objectContaining({ code: "tile-invalid" });
        expect(() => decodeBundle(bytes, bundle.length + 1)).toThrow(refusal);
        if (bundle.length === 0) return;
        expect(() => decodeBundle(bytes, bundle.length - 1)).toThrow(refusal);
        expect(() => decodeBundle(bytes.subarray(0, cut % bytes.length), bundle.length)).toThrow(refusal);
      }),
      { numRuns: 50 },
    );
    expect(() => encodeBundle([new Uint8Array(65_536)])).toThrow(expect.objectContaining({ code: "tile-invalid" }));
  });
});

describe("a log read from somebody else", () => {
  it.each([0, 1, 2, 255, 256, 257, 511, 1000])("is read, proven and audited at size %i", async (size) => {
    const { log, options } = await logOf(size);
    const seen: number[] = [];
    const audit = await auditLog({ ...options, onEntry: ({ index }) => void seen.push(index) });
    expect(audit).toMatchObject({ ok: true, entries: size });
    expect(seen).toEqual(Array.from({ length: size }, (_, i) => i));
    const reader = await LogReader.open(options);
    for (const index of new Set([0, 1, Math.floor(size / 2), size - 2, size - 1])) {
      if (index < 0 || index >= size) continue;
      const entry = await reader.entry(index);
      expect(toHex(entry.bytes)).toBe(toHex(log.entries[index]!));
      const path = await reader.inclusionProof(index);
      expect(verifyInclusion({ leafHash: entry.leafHash, index, size, path, root: reader.checkpoint.root })).toBe(true);
    }
    await expect(reader.inclusionProof(size)).rejects.toMatchObject({ code: "proof-invalid" });
    await expect(reader.entry(size)).rejects.toMatchObject({ code: "proof-invalid" });
  });

  it("proves every old size consistent, across tile levels", async () => {
    const { options } = await logOf(70_000);
    const reader = await LogReader.open(options);
    for (const oldSize of [1, 255, 256, 300, 512, 65_535, 65_536, 65_537, 69_999, 70_000]) {
      const claim = { oldSize, oldRoot: await reader.rootAt(oldSize), size: reader.size, root: reader.checkpoint.root };
      expect(verifyConsistency({ ...claim, proof: await reader.consistencyProof(oldSize) })).toBe(true);
      const index = oldSize - 1;
      const path = await reader.inclusionProof(index, oldSize);
      const leaf = leafHash(utf8(`entry ${index}`));
      expect(verifyInclusion({ leafHash: leaf, index, size: oldSize, path, root: claim.oldRoot })).toBe(true);
    }
  });

  it("reads a log whose partial tiles are gone once the full ones exist", async () => {
    const { log, notes, options } = await logOf(300, 600);
    for (const path of [...log.resources.keys()])
      if (path.includes("x") || path.includes(".p/44")) log.resources.delete(path);
    const old = await LogReader.open({ ...options, checkpoint: notes[0]! });
    expect(toHex((await old.entry(299)).bytes)).toBe(toHex(utf8("entry 299")));
    await expect(old.entry(300)).rejects.toMatchObject({ code: "proof-invalid" });
  });

  it("notices any changed byte, missing resource or entry too many", async () => {
    const { log, options } = await logOf(600);
    const paths = [...log.resources.keys()].filter((path) => path !== "checkpoint");
    const audited = async (): Promise<unknown> => auditLog(options);
    expect(await audited()).toMatchObject({ ok: true });
    for (const path of paths) {
      const good = log.resources.get(path)!;
      const bad = good.slice();
      bad[Math.floor(bad.length / 2)]! ^= 1;
      log.resources.set(path, bad);
      expect(await audited(), `changed ${path}`).toMatchObject({ ok: false, reason: "invalid", code: "tile-invalid" });
      log.resources.set(path, good.subarray(0, good.length - 1));
      expect(await audited(), `cut ${path}`).toMatchObject({ ok: false, code: "tile-invalid" });
      log.resources.set(path, new Uint8Array([...good, 0, 0]));
      expect(await audited(), `extended ${path}`).toMatchObject({ ok: false, code: "tile-invalid" });
      log.resources.delete(path);
      expect(await audited(), `without ${path}`).toMatchObject({ ok: false, code: "tile-invalid" });
      log.resources.set(path, good);
    }
    const note = log.resources.get("checkpoint")!;
    for (let at = 0; at < note.length; at += 7) {
      const bad = note.slice();
      bad[at]! ^= 1;
      log.resources.set("checkpoint", bad);
      expect(await audited(), `changed checkpoint at ${at}`).toMatchObject({ ok: false, reason: "invalid" });
    }
    log.resources.delete("checkpoint");
    expect(await audited()).toMatchObject({ ok: false, code: "not-found" });
  });

  it("calls a shorter log a rollback and another history a fork", async () => {
    const first = await logOf(300, 700);
    expect(await auditLog({ ...first.options, previous: first.notes[0]! })).toMatchObject({ ok: true });
    expect(await auditLog({ ...first.options, previous: first.notes[1]! })).toMatchObject({ ok: true });
    const rolledBack = { ...first.options, checkpoint: first.notes[0]!, previous: first.notes[1]! };
    expect(await auditLog(rolledBack)).toMatchObject({ ok: false, reason: "rollback" });

    const rewritten = new MemoryLog(first.log.key.name, first.log.signer);
    await rewritten.append([utf8("rewritten"), ...entries(1, 800)]);
    const forked = { ...first.options, fetch: rewritten.fetch };
    expect(await auditLog(forked)).toMatchObject({ ok: true });
    for (const previous of first.notes) {
      expect(await auditLog({ ...forked, previous })).toMatchObject({
        ok: false,
        reason: "fork",
        code: "ledger-forked",
      });
    }
    const stranger = await logOf(10);
    expect(await auditLog({ ...first.options, previous: stranger.notes[0]! })).toMatchObject({ ok: false });
  });

  it("passes an unreachable source on, instead of calling it bad evidence", async () => {
    const { options } = await logOf(3);
    const fetch = httpSource("http://127.0.0.1:9/ledger");
    await expect(auditLog({ ...options, fetch })).rejects.toMatchObject({ code: "component-unreachable" });
  });
});
