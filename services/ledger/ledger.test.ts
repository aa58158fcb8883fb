import { generateKeyPairSync, sign, randomBytes } from "node:crypto";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { nodeVerify } from "../../hsm/verify.ts";
import { toHex } from "../../lib/domain/bytes.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { auditLog } from "../../lib/ledger/audit-log.ts";
import { ed25519Raw, KEY_TYPE, noteKey, type NoteKey } from "../../lib/ledger/note.ts";
import { LogReader } from "../../lib/ledger/reader.ts";
import { verifyInclusion } from "../../lib/ledger/tree.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { connect, inTransaction, migrate, type Db } from "../../store/db.ts";
import { readCheckpoint, readHead, takePending } from "../../store/ledger.ts";
import { PROJECT_ROOT, tempDir, testDatabase } from "../../test/support/index.ts";
import { Acts, type ActDraft, type RecordedAct } from "./acts.ts";
import { actKey } from "./admission.ts";
import { exportLedger, folderSource } from "./export.ts";
import { createLedger, Sequencer, type SequencerOptions } from "./sequencer.ts";
import { databaseSource, putBlob, readLedgerResource } from "./serve.ts";
import { nodeSha256 } from "./sha256.ts";

const ORIGIN = "factory-y.example/log";

/** Throwaway keys: what is tested here is the ledger, not the token. */
function signer(kind: "ed25519" | "ec"): Signer {
  const { privateKey, publicKey } =
    kind === "ec" ? generateKeyPairSync("ec", { namedCurve: "P-256" }) : generateKeyPairSync("ed25519");
  return {
    spki: new Uint8Array(publicKey.export({ format: "der", type: "spki" })),
    algorithm: kind === "ec" ? "ecdsa-p256-sha256" : "ed25519",
    sign: async (message) => new Uint8Array(sign(kind === "ec" ? "sha256" : null, message, privateKey)),
  };
}

const digest = (n: number): string => n.toString(16).padStart(64, "0");
function intent(n: number, more: Partial<ActDraft<"intent">> = {}): ActDraft<"intent"> {
  return {
    type: "intent",
    workflowId: "lot/L1",
    stepKey: `intent-${n}`,
    subject: [{ name: `batch ${n}`, digest: { sha256: digest(n) } }],
    fields: { lot: "L1", manifest: digest(n), tbsRoot: digest(n + 1), count: 1 },
    ...more,
  };
}
function hubRegistered(n: number, hub = "hub"): ActDraft<"hub-registered"> {
  return {
    type: "hub-registered",
    workflowId: "hub/H1",
    stepKey: `${n}`,
    subject: [{ name: "factory-y", digest: { sha256: digest(n) } }],
    fields: { hub, caSha256: digest(n), codeSha256: digest(n) },
  };
}

/** The ledger's own tables, and nobody else's: it stands by itself. */
function ledgerMigrations(): string {
  const folder = tempDir("migrations");
  for (const name of ["010-ledger.sql", "011-ledger-rows.sql", "064-witness.sql"]) {
    copyFileSync(join(PROJECT_ROOT, "store/migrations", name), join(folder, name));
  }
  return folder;
}

const shown = (act: RecordedAct) => ({ ...act, entry: toHex(act.entry) });

class Site {
  readonly log = signer("ed25519");
  readonly act = signer("ec");
  readonly key: NoteKey = noteKey(ORIGIN, KEY_TYPE.ed25519, ed25519Raw(this.log.spki));
  readonly errors: unknown[] = [];
  readonly acts: Acts;
  readonly #running: Sequencer[] = [];
  readonly db: Db;

  private constructor(db: Db) {
    this.db = db;
    this.acts = new Acts({ db, origin: ORIGIN, party: "factory-y" });
  }

  static async create(): Promise<Site> {
    const db = connect((await testDatabase()).url, { max: 40 });
    await migrate(db, ledgerMigrations());
    const site = new Site(db);
    await createLedger({ db, origin: ORIGIN, signer: site.log });
    return site;
  }

  sequencer(more: Partial<SequencerOptions> = {}): Sequencer {
    const sequencer = new Sequencer({
      db: this.db,
      origin: ORIGIN,
      signer: this.log,
      actKeys: () => [actKey(this.act.spki, this.act.algorithm)],
      verify: nodeVerify,
      onError: (error) => this.errors.push(error),
      ...more,
    });
    this.#running.push(sequencer);
    return sequencer;
  }
  start(more: Partial<SequencerOptions> = {}): Sequencer {
    const sequencer = this.sequencer(more);
    sequencer.start();
    return sequencer;
  }
  async stopAll(): Promise<void> {
    await Promise.all(this.#running.splice(0).map((s) => s.stop()));
  }
  async close(): Promise<void> {
    await this.stopAll();
    this.acts.close();
    await this.db.end();
  }

  lines(drafts: readonly ActDraft<"intent">[]) {
    return inTransaction(this.db, (tx) => this.acts.recordLines(tx, drafts));
  }
  wait(keys: readonly { retryKey: string }[], timeoutMs = 15_000) {
    return this.acts.waitIncluded(
      keys.map((k) => k.retryKey),
      { timeoutMs },
    );
  }
  audit(previous?: Uint8Array) {
    return auditLog({
      fetch: databaseSource(this.db),
      log: this.key,
      verify: nodeVerify,
      sha256: nodeSha256,
      ...(previous === undefined ? {} : { previous }),
    });
  }
  reader() {
    return LogReader.open({ fetch: databaseSource(this.db), log: this.key, verify: nodeVerify, sha256: nodeSha256 });
  }
}

describe("a party's ledger", () => {
  let site: Site;
  beforeAll(async () => {
    site = await Site.create();
  });
  afterEach(() => site.stopAll());
  afterAll(() => site.close());

  it("signs the empty log when it is created, once, and belongs to one party", async () => {
    const first = (await readCheckpoint(site.db))!;
    expect(first.size).toBe(0);
    expect(toHex(await createLedger({ db: site.db, origin: ORIGIN, signer: site.log }))).toBe(toHex(first.note));
    await expect(createLedger({ db: site.db, origin: "other/log", signer: site.log })).rejects.toMatchObject({
      code: "state-conflict",
    });
    expect(await site.audit()).toMatchObject({ ok: true, entries: 0 });
  });

  it("includes line records and signed acts, which anyone can prove", async () => {
    site.start();
    const lines = await site.lines([1, 2, 3].map((n) => intent(n)));
    const signed = await site.acts.recordSigned(hubRegistered(1), site.act);
    const included = await site.wait([...lines, signed]);
    expect(included.map((i) => i.leafHash)).toEqual([...lines, signed].map((a) => a.leafHash));
    const reader = await site.reader();
    for (const [i, act] of [...lines, signed].entries()) {
      const { index, checkpointSize } = included[i]!;
      expect(checkpointSize).toBeGreaterThan(index);
      const entry = await reader.entry(index);
      expect(toHex(entry.bytes)).toBe(toHex(act.entry));
      const claim = { leafHash: entry.leafHash, index, size: reader.size, root: reader.checkpoint.root };
      expect(verifyInclusion({ ...claim, path: await reader.inclusionProof(index) })).toBe(true);
      expect(parseEntry(entry.bytes).act).toMatchObject({ origin: ORIGIN, party: "factory-y", retryKey: act.retryKey });
    }
    expect(included[1]!.index).toBe(included[0]!.index + 1);
    expect(site.errors).toEqual([]);
  });

  it("gives the first act back for the same content, whatever the clock says, and refuses other content", async () => {
    site.start();
    const [line] = await site.lines([intent(100)]);
    const [again] = await site.lines([intent(100, { time: "2031-01-01T00:00:00.000Z" })]);
    expect(shown(again!)).toEqual({ ...shown(line!), first: false });
    await expect(site.lines([intent(100, { subject: intent(101).subject })])).rejects.toMatchObject({
      code: "act-conflict",
    });
    await expect(site.lines([intent(7), intent(7)])).rejects.toMatchObject({ code: "act-conflict" });

    const signed = await site.acts.recordSigned(hubRegistered(100), site.act);
    const repeated = await site.acts.recordSigned(hubRegistered(100), site.act);
    expect(shown(repeated)).toEqual({ ...shown(signed), first: false });
    await expect(site.acts.recordSigned(hubRegistered(100, "other hub"), site.act)).rejects.toMatchObject({
      code: "act-conflict",
    });
    expect(shown((await site.acts.find("hub/H1", "100"))!)).toEqual(shown(repeated));
    const racing = await Promise.all(
      Array.from({ length: 12 }, () => site.acts.recordSigned(hubRegistered(101), site.act)),
    );
    expect(new Set(racing.map((r) => r.leafHash)).size).toBe(1);
    expect(racing.filter((r) => r.first)).toHaveLength(1);
    const before = (await readHead(site.db))!.size;
    await site.wait([line!, signed, racing[0]!]);
    await site.lines([intent(100)]);
    await site.wait([line!, signed]);
    expect((await readHead(site.db))!.size).toBeLessThanOrEqual(before + 3);
  });

  it("leaves nothing behind when the caller's transaction rolls back", async () => {
    const draft = intent(200);
    await expect(
      inTransaction(site.db, async (tx) => {
        await site.acts.recordLines(tx, [draft]);
        throw new Error("no");
      }),
    ).rejects.toThrow("no");
    expect(await site.acts.find(draft.workflowId, draft.stepKey)).toBeUndefined();
    await expect(
      site.acts.recordSigned(hubRegistered(200), site.act, async () => {
        throw new Error("no");
      }),
    ).rejects.toThrow("no");
    expect(await site.acts.find("hub/H1", "200")).toBeUndefined();
    // The statement stays fixed, so the retry signs the same bytes.
    const retried = await site.acts.recordSigned(hubRegistered(200), site.act);
    expect(retried.first).toBe(true);
  });

  it("takes an act only after the previous one that it names", async () => {
    site.start();
    const ref = (leafHash: string, origin = ORIGIN) => ({ prev: [{ origin, leafHash }] });
    await expect(site.lines([intent(300, ref(digest(5)))])).rejects.toMatchObject({ code: "act-invalid" });
    const [elsewhere] = await site.lines([intent(301, ref(digest(5), "company-x.example/log"))]);
    const [first] = await site.lines([intent(302, { time: "2026-07-01T00:00:00.000Z" })]);
    const [second] = await site.lines([intent(303, ref(first!.leafHash))]);
    const found = await site.wait([second!, first!, elsewhere!]);
    expect(found[1]!.index).toBeLessThan(found[0]!.index);
    await expect(
      site.acts.recordSigned({ ...hubRegistered(300), prev: [{ origin: ORIGIN, leafHash: digest(6) }] }, site.act),
    ).rejects.toMatchObject({ code: "act-invalid" });
  });

  it("refuses a signed act that no act key of the party signed, and goes on", async () => {
    site.start();
    const forged = await site.acts.recordSigned(hubRegistered(400), signer("ec"));
    await expect(site.wait([forged])).rejects.toMatchObject({ code: "act-invalid" });
    const [line] = await site.lines([intent(400)]);
    await site.wait([line!]);
    // What follows a refused act is refused when it is recorded.
    await expect(
      site.lines([intent(401, { prev: [{ origin: ORIGIN, leafHash: forged.leafHash }] })]),
    ).rejects.toMatchObject({ code: "act-invalid" });
    // An unsigned statement of a signed type, put into the tables from outside, doesn't get in either.
    const { statement } = parseEntry(forged.entry);
    const key = randomBytes(32);
    await site.db.query(
      "INSERT INTO ledger_act (retry_key, type, entry, leaf_hash, prev) VALUES ($1, 'hub-registered', $2, $3, '{}')",
      [key, statement, nodeSha256(Buffer.concat([Buffer.of(0), statement]))],
    );
    await site.db.query("INSERT INTO ledger_pending (retry_keys) VALUES ($1)", [key]);
    await expect(site.wait([{ retryKey: toHex(key) }])).rejects.toMatchObject({ code: "act-invalid" });
  });

  it("refuses bytes that were changed since they were recorded, whoever vouches for them", async () => {
    const party = await Site.create();
    try {
      const [kept, spoiled] = await party.lines([intent(1), intent(2)]);
      await party.db.query("UPDATE ledger_act SET entry = entry || ' ' WHERE retry_key = $1", [
        Buffer.from(spoiled!.retryKey, "hex"),
      ]);
      expect(party.acts.vouches(spoiled!.leafHash)).toMatchObject({ type: "intent" });
      party.start({ vouched: (hash) => party.acts.vouches(hash) });
      await party.wait([kept!]);
      await expect(party.wait([spoiled!])).rejects.toMatchObject({ code: "act-invalid" });
    } finally {
      await party.close();
    }
  });

  it("takes no act whose previous ones it can't read", async () => {
    const party = await Site.create();
    try {
      const [first] = await party.lines([intent(1)]);
      await party.lines([intent(2, { prev: [{ origin: ORIGIN, leafHash: first!.leafHash }] })]);
      const taken = (setup: string) =>
        inTransaction(party.db, async (tx) => {
          await tx.query(setup);
          return await takePending(tx, 10);
        });
      const previous = [[], [first!.leafHash]];
      expect((await taken("SET LOCAL bytea_output = 'hex'")).map((act) => act.prev)).toEqual(previous);
      expect((await taken("SET LOCAL bytea_output = 'escape'")).map((act) => act.prev)).toEqual(previous);
      const spoil = "UPDATE ledger_act SET prev = ARRAY[NULL]::bytea[] WHERE cardinality(prev) = 1";
      await expect(taken(spoil)).rejects.toMatchObject({ code: "internal" });
    } finally {
      await party.close();
    }
  });

  it("refuses a line record signed and a signed act as a line", async () => {
    await expect(site.acts.recordSigned(intent(1) as never, site.act)).rejects.toMatchObject({ code: "act-invalid" });
    await expect(site.lines([hubRegistered(1) as never])).rejects.toMatchObject({ code: "act-invalid" });
  });

  it("admits under grants that the party has accepted, and nothing without one but its keys", async () => {
    const ours = { origin: "company-x.example/log", leafHash: digest(1) };
    const party = await Site.create();
    try {
      party.start({ standing: async () => ({ root: false, grants: [ours] }) });
      const wait = async (act: { retryKey: string }) => (await party.wait([act]))[0]?.index;
      const [good] = await party.lines([intent(1, { grant: ours })]);
      expect(await wait(good!)).toBe(0);
      const signed = await party.acts.recordSigned({ ...hubRegistered(1), grant: ours }, party.act);
      expect(await wait(signed)).toBe(1);
      const refused = { code: "act-invalid" };
      const strange = { ...ours, leafHash: digest(2) };
      const elsewhere = { ...ours, origin: "factory-y.example/log" };
      for (const [n, grant] of [strange, elsewhere, undefined].entries()) {
        const named = grant === undefined ? {} : { grant };
        const [line] = await party.lines([intent(10 + n, named)]);
        await expect(wait(line!)).rejects.toMatchObject(refused);
        const act = await party.acts.recordSigned({ ...hubRegistered(10 + n), ...named }, party.act);
        await expect(wait(act)).rejects.toMatchObject({ ...refused, message: expect.stringMatching(/grant/) });
      }
      await party.stopAll();
      // The ceremony's party has none above it.
      party.start({ standing: async () => ({ root: true, grants: [] }) });
      expect(await wait(await party.acts.recordSigned(hubRegistered(20), party.act))).toBe(2);
      const [under] = await party.lines([intent(20, { grant: ours })]);
      await expect(wait(under!)).rejects.toMatchObject(refused);
      expect(party.errors).toEqual([]);
    } finally {
      await party.close();
    }
  });

  it("signs no checkpoint when nothing grew", async () => {
    const sizes: number[] = [];
    site.start({ intervalMs: 5, onCheckpoint: ({ size }) => sizes.push(size) });
    await site.wait(await site.lines([intent(500)]));
    const before = (await readCheckpoint(site.db))!;
    await site.lines([intent(500)]);
    await new Promise((resolve) => setTimeout(resolve, 1300));
    const after = (await readCheckpoint(site.db))!;
    expect(after.size).toBe(before.size);
    expect(after.signedAt).toEqual(before.signedAt);
    expect(new Set(sizes).size).toBe(sizes.length);
  });

  it("tells who waits when time is up or nothing was recorded", async () => {
    const [line] = await site.lines([intent(600)]);
    await expect(site.wait([line!], 200)).rejects.toMatchObject({ code: "timeout" });
    await expect(site.wait([{ retryKey: digest(77) }])).rejects.toMatchObject({ code: "not-found" });
    const abort = new AbortController();
    const waiting = site.acts.waitIncluded([line!.retryKey], { timeoutMs: 60_000, signal: abort.signal });
    abort.abort();
    await expect(waiting).rejects.toMatchObject({ code: "timeout" });
  });

  it("serves what a checkpoint covers, and only well-written paths", async () => {
    const size = (await readCheckpoint(site.db))!.size;
    expect(size % 256).toBeGreaterThan(0);
    const partial = await readLedgerResource(site.db, `tile/0/000.p/${size}`);
    expect(partial?.bytes.length).toBe(size * 32);
    expect(partial?.cacheControl).toBe("public, max-age=60");
    const bundle = await readLedgerResource(site.db, `tile/entries/000.p/${size}`);
    expect(bundle).toMatchObject({ contentType: "application/octet-stream", cacheControl: "public, max-age=60" });
    expect((await readLedgerResource(site.db, "checkpoint"))?.cacheControl).toBe("no-cache");
    for (const path of [
      `tile/0/000.p/${size + 1}`,
      "tile/0/000",
      "tile/0/0",
      "tile/0/000.p/0",
      "tile/7/000.p/1",
      "tile/00/000.p/1",
      "tile/0/x000/000.p/1",
      "tile/entries/001.p/1",
      "/checkpoint",
      "blobs/xyz",
      "../checkpoint",
    ]) {
      expect(await readLedgerResource(site.db, path), path).toBeUndefined();
    }
    const sha256 = await putBlob(site.db, Buffer.from("manifest"));
    const blob = (await readLedgerResource(site.db, `blobs/${sha256}`))!;
    expect(Buffer.from(blob.bytes).toString()).toBe("manifest");
    expect(blob.cacheControl).toContain("immutable");
  });

  it("exports the log as a folder that stands by itself, and continues it", async () => {
    site.start();
    const folder = tempDir("ledger");
    await exportLedger(site.db, folder);
    const options = { fetch: folderSource(folder), log: site.key, verify: nodeVerify };
    const first = await auditLog(options);
    expect(first.ok).toBe(true);
    await site.wait(await site.lines(Array.from({ length: 600 }, (_, i) => intent(10_000 + i))));
    const { size } = await exportLedger(site.db, folder);
    const second = await auditLog({ ...options, ...(first.ok ? { previous: first.checkpoint.note } : {}) });
    expect(second).toMatchObject({ ok: true, entries: size });
    for (const path of ["tile/0/000", "tile/entries/001"]) {
      expect((await readLedgerResource(site.db, path))?.cacheControl).toBe("public, max-age=31536000, immutable");
    }
    expect(await folderSource(folder)("../../etc/passwd")).toBeUndefined();
    expect(site.errors).toEqual([]);
  });
});

describe("many at once", () => {
  let site: Site;
  beforeAll(async () => {
    site = await Site.create();
  });
  afterEach(() => site.stopAll());
  afterAll(() => site.close());

  it("gives each of 24 concurrent writers' acts one place, in each writer's order", async () => {
    site.start({ maxBatch: 97 });
    site.start({ maxBatch: 97 });
    const writers = Array.from({ length: 24 }, async (_, w) => {
      let prev: string | undefined;
      const indexes: number[] = [];
      for (let n = 0; n < 12; n++) {
        const chained = prev === undefined ? {} : { prev: [{ origin: ORIGIN, leafHash: prev }] };
        const batch = Array.from({ length: 5 }, (_, i) =>
          intent(w * 1000 + n * 10 + i, { workflowId: `lot/W${w}`, ...chained }),
        );
        // Others write the same batch at the same time.
        const acts = (await Promise.all([site.lines(batch), site.lines(batch.toReversed())]))[0];
        prev = acts[4]!.leafHash;
        indexes.push(...(n % 4 === 0 ? await site.wait(acts) : []).map((i) => i.index));
      }
      expect(indexes).toHaveLength(15);
      return indexes;
    });
    const all = (await Promise.all(writers)).flat();
    expect(new Set(all).size).toBe(all.length);
    await expect.poll(async () => (await readCheckpoint(site.db))!.size).toBe(24 * 60);
    expect(await site.audit()).toMatchObject({ ok: true, entries: 24 * 60 });
    expect(site.errors).toEqual([]);
  });

  it("never lets an act in before the one it follows, however commits interleave", async () => {
    site.start({ intervalMs: 1 });
    const reader = await site.reader();
    const seen = new Set<string>();
    for await (const { leafHash, bytes } of reader.entries()) {
      for (const prev of parseEntry(bytes).act.prev) expect(seen.has(prev.leafHash)).toBe(true);
      seen.add(toHex(leafHash));
    }
    expect(seen.size).toBe(24 * 60);
  });

  it("takes acts that commit late, below ids that were taken already", async () => {
    site.start({ intervalMs: 1 });
    const late = await site.db.connect();
    await late.query("BEGIN");
    const [slow] = await site.acts.recordLines(late, [intent(900_001)]);
    await site.wait(await site.lines([intent(900_002)]));
    await late.query("COMMIT");
    late.release();
    await site.wait([slow!]);
  });
});

describe("faults", () => {
  let site: Site;
  beforeAll(async () => {
    site = await Site.create();
  });
  afterEach(() => site.stopAll());
  afterAll(() => site.close());
  const crash = async (): Promise<void> => {
    throw new Error("crash");
  };

  it("signs the durable head after a crash between the two steps, before anything else", async () => {
    const before = (await readCheckpoint(site.db))!;
    const crashed = site.start({ seam: { beforeSign: crash } });
    const lines = await site.lines([intent(1), intent(2)]);
    await expect.poll(async () => (await readHead(site.db))!.size).toBe(before.size + 2);
    await expect.poll(() => site.errors.length).toBeGreaterThan(0);
    await crashed.stop();
    // Durable, and in no checkpoint: nobody was told.
    expect((await readCheckpoint(site.db))!.size).toBe(before.size);
    await expect(site.wait(lines, 100)).rejects.toMatchObject({ code: "timeout" });
    expect(await readLedgerResource(site.db, "tile/0/000.p/2")).toBeUndefined();

    const signed: number[] = [];
    site.start({ onCheckpoint: ({ size }) => signed.push(size) });
    await site.wait(lines);
    await expect.poll(() => signed[0]).toBe(before.size + 2);
    expect(await site.audit(before.note)).toMatchObject({ ok: true });
  });

  it("signs nothing when the first step fails, and puts every act in its place afterwards", async () => {
    site.errors.length = 0;
    const before = (await readHead(site.db))!;
    let signed = 0;
    let failures = 3;
    const seam = {
      beforeCommit: async (size: number) => {
        if (size > before.size && failures-- > 0) throw new Error("crash");
      },
      beforeSign: async () => void signed++,
    };
    site.start({ seam });
    const lines = await site.lines([intent(11), intent(12)]);
    await expect.poll(() => site.errors.length).toBeGreaterThan(0);
    expect(signed).toBe(0);
    await site.wait(lines);
    expect((await readHead(site.db))!.size).toBe(before.size + 2);
    expect(await site.audit()).toMatchObject({ ok: true });
  });

  it("stores one checkpoint when the signature was lost", async () => {
    const before = (await readHead(site.db))!.size;
    const notes: string[] = [];
    let failures = 2;
    site.start({
      seam: {
        beforeStore: async (_, note) => {
          notes.push(toHex(note));
          if (failures-- > 0) throw new Error("crash");
        },
      },
    });
    await site.wait(await site.lines([intent(21)]));
    expect(notes).toHaveLength(3);
    // The same head gives the same note: whoever saw the lost one saw no fork.
    expect(new Set(notes).size).toBe(1);
    expect((await readCheckpoint(site.db))!.size).toBe(before + 1);
  });

  it("survives its connection being killed, at any moment", async () => {
    const kill = async (): Promise<void> => {
      await site.db.query(
        `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
      );
    };
    let kills = 0;
    const maybe = async (): Promise<void> => {
      if (kills < 6 && Math.random() < 0.5) {
        kills++;
        await kill();
      }
    };
    const before = (await readHead(site.db))!.size;
    const options = {
      intervalMs: 1,
      maxBatch: 7,
      seam: { beforeCommit: maybe, beforeSign: maybe, beforeStore: maybe },
    };
    site.start(options);
    site.start(options);
    const acts = [];
    for (let n = 0; n < 10; n++)
      acts.push(...(await site.lines(Array.from({ length: 10 }, (_, i) => intent(3000 + n * 10 + i)))));
    await site.wait(acts, 30_000);
    expect(kills).toBeGreaterThan(0);
    expect((await readHead(site.db))!.size).toBe(before + 100);
    expect(await site.audit()).toMatchObject({ ok: true, entries: before + 100 });
  });

  it("fences a leader whose lock is gone: the head moved, so nothing of it is written or signed", async () => {
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    let stalled = 0;
    const signed: number[] = [];
    site.errors.length = 0;
    site.start({
      seam: {
        beforeCommit: async () => {
          stalled++;
          await held;
        },
        beforeSign: async (size) => void signed.push(size),
      },
    });
    await expect.poll(() => stalled).toBe(1);
    // Another moves the head meanwhile, as if the lock had been lost (it commits leaves, tiles and head by itself).
    const before = (await readHead(site.db))!;
    await site.db.query("UPDATE ledger_head SET root = $1", [Buffer.alloc(32, 1)]);
    await site.lines([intent(41)]);
    release();
    await expect.poll(() => site.errors.length).toBeGreaterThan(0);
    expect(site.errors[0]).toMatchObject({ code: "state-conflict" });
    // Read again, head and tiles contradict each other: it stops for good instead of signing.
    await expect.poll(() => site.errors.at(-1)).toMatchObject({ code: "ledger-forked" });
    expect(signed).toEqual([]);
    await site.db.query("UPDATE ledger_head SET root = $1", [before.root]);
    await site.stopAll();
    site.start();
    await site.wait(await site.lines([intent(41)]));
  });

  it("stands by while another leads and takes over when it stops", async () => {
    const first = site.start();
    await site.wait(await site.lines([intent(51)]));
    const seen: number[] = [];
    site.start({ onCheckpoint: ({ size }) => seen.push(size) });
    await site.wait(await site.lines([intent(52)]));
    expect(seen).toEqual([]);
    await first.stop();
    await site.wait(await site.lines([intent(53)]));
    await expect.poll(() => seen).toHaveLength(1);
  });

  it("doesn't sign a restored database that is behind its own checkpoint", async () => {
    site.errors.length = 0;
    const size = (await readHead(site.db))!.size;
    await site.db.query("INSERT INTO ledger_checkpoint (size, root, note) VALUES ($1, $2, $3)", [
      size + 5,
      randomBytes(32),
      Buffer.from("x"),
    ]);
    site.start();
    await expect.poll(() => site.errors.at(-1)).toMatchObject({ code: "ledger-forked" });
    await site.db.query("DELETE FROM ledger_checkpoint WHERE size = $1", [size + 5]);
  });
});
