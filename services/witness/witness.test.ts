import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { pino } from "pino";
import { createPlainServer } from "../../apps/http/server.ts";
import { registerWitness } from "../../apps/gateway/routes/witness.ts";
import { toHex, utf8 } from "../../lib/domain/bytes.ts";
import { formatAddCheckpoint } from "../../lib/ledger/add-checkpoint.ts";
import { signCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { parseSignatureLines, verifyCosignatures } from "../../lib/ledger/cosignature.ts";
import { ed25519Raw, formatNote, KEY_TYPE, noteKey, parseNote, signNote } from "../../lib/ledger/note.ts";
import { LogReader } from "../../lib/ledger/reader.ts";
import { MemoryLog, opensslVerify, testKey } from "../../test/support/memory-log.ts";
import { siteDatabase } from "../../test/support/parties.ts";
import type { Db } from "../../store/db.ts";
import { listEvidence, witnessedLog } from "../../store/witness.ts";
import { tempDir } from "../../test/support/index.ts";
import { witnessedCheckpoint, witnessedPath } from "./heads.ts";
import { WitnessMemory } from "./memory.ts";
import { Witness } from "./witness.ts";

const NAME = "witness.example/w";
const signer = testKey("ed25519");
const key = noteKey(NAME, KEY_TYPE.cosignature, ed25519Raw(signer.spki));
const NOW = new Date("2026-11-22T12:00:00Z");
const entries = (from: number, count: number) => Array.from({ length: count }, (_, i) => utf8(`entry ${from + i}`));

describe("add-checkpoint over HTTP", () => {
  let db: Db;
  let url: string;
  let stop: () => Promise<void>;
  const logs = new Map<string, MemoryLog>();
  const seen: { origin: string; reason: string }[] = [];
  let failing: Error | undefined;
  beforeAll(async () => {
    db = await siteDatabase();
    const logKeys = async (origin: string) => [...logs.values()].map((l) => l.key).filter((k) => k.name === origin);
    const slow = {
      ...signer,
      sign: async (message: Uint8Array) => {
        if (failing) throw failing;
        return signer.sign(message);
      },
    };
    const witness = new Witness({
      db,
      name: NAME,
      signer: slow,
      verify: opensslVerify,
      logKeys,
      onEvidence: (e) => seen.push(e),
      now: () => NOW,
    });
    const app = createPlainServer({ logger: pino({ level: "silent" }), bodyLimit: 1024 });
    registerWitness(app, { witness, db });
    url = `${await app.listen({ host: "127.0.0.1", port: 0 })}/witness`;
    stop = async () => {
      await app.close();
      await db.end();
    };
  });
  afterAll(() => stop());

  function newLog(origin: string): MemoryLog {
    const log = new MemoryLog(origin);
    logs.set(origin, log);
    return log;
  }
  const post = async (body: Uint8Array | string, headers: Record<string, string> = {}) => {
    const response = await fetch(`${url}/add-checkpoint`, { method: "POST", body: body as BodyInit, headers });
    const { status } = response;
    return { status, type: response.headers.get("content-type"), text: await response.text() };
  };
  const body = (oldSize: number, checkpoint: Uint8Array, proof: Uint8Array[] = []) =>
    formatAddCheckpoint({ oldSize, proof, checkpoint });
  const proofFor = async (log: MemoryLog, oldSize: number) => {
    const reader = await LogReader.open({ fetch: log.fetch, log: log.key, verify: opensslVerify });
    return oldSize === 0 ? [] : reader.consistencyProof(oldSize);
  };
  const cosigned = (text: string, note: Uint8Array) =>
    verifyCosignatures(parseNote(note).text, parseSignatureLines(utf8(text)), [key], opensslVerify);

  it("cosigns a log from its first checkpoint on, and again what it cosigned last", async () => {
    const log = newLog("a.example/log");
    const empty = await log.append([]);
    expect((await post(body(0, empty))).status).toBe(200);
    const first = await log.append(entries(0, 5));
    const answer = await post(body(0, first), { "content-type": "text/plain" });
    expect(answer).toMatchObject({ status: 200, type: "text/plain; charset=utf-8" });
    expect(await cosigned(answer.text, first)).toMatchObject([{ time: NOW.getTime() / 1000 }]);
    expect((await post(body(5, first))).status).toBe(200);
    const second = await log.append(entries(5, 300));
    const next = await post(body(5, second, await proofFor(log, 5)), { "content-type": "application/octet-stream" });
    expect(next.status).toBe(200);
    expect(await cosigned(next.text, second)).toHaveLength(1);
    const kept = await fetch(`${url}/${witnessedPath("a.example/log")}`);
    expect(toHex(new Uint8Array(await kept.arrayBuffer()))).toBe(toHex(second));
    expect((await fetch(`${url}/${witnessedPath("b.example/log")}`)).status).toBe(404);
  });

  it("answers a stale old size with the size to post from, whatever the proof", async () => {
    const log = newLog("stale.example/log");
    const first = await log.append(entries(0, 7));
    await post(body(0, first));
    const second = await log.append(entries(7, 3));
    for (const [old, proof] of [
      [0, []],
      [3, await proofFor(log, 3)],
      [9, await proofFor(log, 9)],
    ] as const) {
      expect(await post(body(old, second, [...proof]))).toEqual({ status: 409, type: "text/x.tlog.size", text: "7\n" });
    }
    expect((await post(body(7, second, await proofFor(log, 7)))).status).toBe(200);
    // A rollback: what was cosigned before is no longer the newest.
    expect(await post(body(7, first))).toMatchObject({ status: 409, text: "10\n" });
    expect(await post(body(0, first))).toMatchObject({ status: 409, text: "10\n" });
    expect((await witnessedLog(db, "stale.example/log"))?.size).toBe(10);
  });

  it("refuses an old size beyond the checkpoint with 400, and every malformed request", async () => {
    const log = newLog("form.example/log");
    const note = await log.append(entries(0, 2));
    expect((await post(body(3, note))).status).toBe(400);
    const text = new TextDecoder().decode(note);
    const hash = Buffer.alloc(32).toString("base64");
    for (const bad of [
      "",
      "old 0\n",
      `old 0\n${text}`,
      `old 00\n\n${text}`,
      `old -1\n\n${text}`,
      `old 1e1\n\n${text}`,
      `Old 0\n\n${text}`,
      `old 0\nAAAA\n\n${text}`,
      `old 0\n${hash} \n\n${text}`,
      `old 1\n${`${hash}\n`.repeat(64)}\n${text}`,
      `old 0\n\n${text.slice(0, -1)}`,
      `old 0\r\n\r\n${text}`,
      `old 0\n\n${text.replace("\n2\n", "\n02\n")}`,
      `old 0\n\nform.example/log\n2\n\n`,
    ]) {
      expect((await post(bad)).status, JSON.stringify(bad.slice(0, 60))).toBe(400);
    }
    expect((await post("x".repeat(100_000))).status).toBe(413);
    expect((await fetch(`${url}/add-checkpoint`)).status).toBe(404);
    expect(await witnessedLog(db, "form.example/log")).toBeUndefined();
  });

  it("knows no other log (404), and believes no other key (403)", async () => {
    const stranger = await new MemoryLog("stranger.example/log").append(entries(0, 1));
    expect((await post(body(0, stranger))).status).toBe(404);
    const log = newLog("keys.example/log");
    const note = await log.append(entries(0, 1));
    const imposter = await new MemoryLog("keys.example/log").append(entries(0, 1));
    expect((await post(body(0, imposter))).status).toBe(403);
    const bent = parseNote(note).signatures.map((s) => ({ ...s, signature: s.signature.map((b) => b ^ 1) }));
    expect((await post(body(0, formatNote({ text: parseNote(note).text, signatures: bent })))).status).toBe(403);
    // Others' lines beside the log's own are passed over.
    const both = { text: parseNote(note).text, signatures: [] as ReturnType<typeof parseNote>["signatures"][number][] };
    both.signatures.push(...parseNote(imposter).signatures, ...parseNote(note).signatures);
    expect((await post(body(0, formatNote(both)))).status).toBe(200);
  });

  it("refuses a proof that doesn't verify with 422, and keeps what the log's key signed", async () => {
    const log = newLog("proof.example/log");
    await post(body(0, await log.append(entries(0, 6))));
    const next = await log.append(entries(6, 5));
    const proof = await proofFor(log, 6);
    const bent = proof.map((hash, i) => (i === 0 ? hash.map((b) => b ^ 1) : hash));
    for (const wrong of [[], bent, [...proof, proof[0]!], proof.toReversed(), await proofFor(log, 5)]) {
      expect((await post(body(6, next, wrong))).status).toBe(422);
    }
    expect((await witnessedLog(db, "proof.example/log"))?.size).toBe(6);
    expect(seen.filter((e) => e.origin === "proof.example/log")).toEqual([
      { origin: "proof.example/log", reason: "bad-proof" },
    ]);
    // And a proof where there is nothing to prove.
    const fresh = newLog("fresh.example/log");
    expect((await post(body(0, await fresh.append(entries(0, 1)), [proof[0]!]))).status).toBe(422);
  });

  it("never cosigns a fork: of the same size 409, of another 422, and keeps it as evidence", async () => {
    const log = newLog("fork.example/log");
    const note = await log.append(entries(0, 4));
    await post(body(0, note));
    const fork = new MemoryLog("fork.example/log", log.signer);
    const other = await fork.append(entries(100, 4));
    for (const old of [4, 0, 2]) {
      expect(await post(body(old, other, await proofFor(fork, old)))).toMatchObject({ status: 409, text: "4\n" });
    }
    const longer = await fork.append(entries(104, 4));
    expect((await post(body(4, longer, await proofFor(fork, 4)))).status).toBe(422);
    const kept = (await listEvidence(db)).filter((e) => e.origin === "fork.example/log");
    expect(kept.map((e) => e.reason)).toEqual(["fork", "bad-proof"]);
    expect(toHex(kept[0]!.known!)).toBe(toHex(note));
    expect((await witnessedLog(db, "fork.example/log"))?.note).toEqual(Buffer.from(note));
    // An empty tree has one root.
    const none = newLog("none.example/log");
    const lie = await signCheckpoint({ origin: none.key.name, size: 0, root: new Uint8Array(32) }, none.signer);
    expect((await post(body(0, lie))).status).toBe(409);
  });

  it("cosigns lines of extensions with the rest", async () => {
    const log = newLog("ext.example/log");
    const plain = parseNote(await log.append(entries(0, 3))).text;
    const note = formatNote(await signNote(`${plain}extension 1\n`, log.key.name, log.signer));
    const answer = await post(body(0, note));
    expect(answer.status).toBe(200);
    expect(await cosigned(answer.text, note)).toHaveLength(1);
  });

  it("lets one of many requests at once pass, and none roll it back", async () => {
    const log = newLog("race.example/log");
    const notes: Uint8Array[] = [];
    for (let i = 0; i < 8; i++) notes.push(await log.append(entries(i, 1)));
    const answers = await Promise.all(notes.map((note) => post(body(0, note))));
    expect(answers.filter((a) => a.status === 200)).toHaveLength(1);
    const winner = answers.findIndex((a) => a.status === 200) + 1;
    for (const answer of answers) if (answer.status !== 200) expect(answer).toMatchObject({ status: 409 });
    expect((await witnessedLog(db, "race.example/log"))?.size).toBe(winner);
    const two = await Promise.all([post(body(winner, notes.at(-1)!)), post(body(winner, notes.at(-1)!))]);
    for (const { status } of two) expect(winner === 8 ? [200] : [422]).toContain(status);
  });

  it("has the new state durable before it signs: without a token nothing is cosigned, and asking again is", async () => {
    const log = newLog("token.example/log");
    const note = await log.append(entries(0, 3));
    failing = new Error("the token is gone");
    expect((await post(body(0, note))).status).toBe(500);
    failing = undefined;
    expect((await witnessedLog(db, "token.example/log"))?.size).toBe(3);
    expect(await post(body(0, note))).toMatchObject({ status: 409, text: "3\n" });
    expect((await post(body(3, note))).status).toBe(200);
  });
});

describe("a witness whose database was restored", () => {
  const log = new MemoryLog("restored.example/log");
  const memory = new WitnessMemory(join(tempDir("witness"), "memory"));
  let db: Db;
  let witness: Witness;
  beforeAll(async () => {
    db = await siteDatabase();
    witness = new Witness({ db, memory, name: NAME, signer, verify: opensslVerify, logKeys: async () => [log.key] });
  });
  afterAll(() => db.end());
  const ask = async (from: MemoryLog, oldSize: number) => {
    const reader = await LogReader.open({ fetch: from.fetch, log: log.key, verify: opensslVerify });
    const proof = oldSize === 0 || oldSize >= reader.size ? [] : await reader.consistencyProof(oldSize);
    return witness.addCheckpoint(formatAddCheckpoint({ oldSize, proof, checkpoint: reader.checkpoint.note }));
  };

  it("goes on from what it cosigned, not from what the database still knows", async () => {
    await log.append(entries(0, 5));
    expect(await ask(log, 0)).toMatchObject({ status: 200 });
    const backup = await db.query("SELECT * FROM witness_log");
    await log.append(entries(5, 5));
    expect(await ask(log, 5)).toMatchObject({ status: 200 });
    const newest = (await log.fetch("checkpoint"))!;

    const fork = new MemoryLog(log.key.name, log.signer);
    await fork.append([...entries(0, 5), ...entries(90, 5)]);
    for (const forget of [
      () =>
        db.query("UPDATE witness_log SET size = 5, root = $1, note = $2", [backup.rows[0].root, backup.rows[0].note]),
      () => db.query("DELETE FROM witness_log"),
    ]) {
      await forget();
      expect(await ask(fork, 5)).toEqual({ status: 409, size: 10 });
      const shown = await witnessedCheckpoint(db, memory, witnessedPath(log.key.name).split("/")[0]!);
      expect(toHex(shown!)).toBe(toHex(newest));
    }
    expect((await listEvidence(db)).map(({ reason }) => reason)).toEqual(["fork"]);
    await fork.append(entries(100, 5));
    expect(await ask(fork, 10)).toMatchObject({ status: 422 });
    // The honest one goes on, and with it the database.
    await log.append(entries(10, 5));
    expect(await ask(log, 10)).toMatchObject({ status: 200 });
    expect((await witnessedLog(db, log.key.name))?.size).toBe(15);
    expect((await memory.last(log.key.name))?.size).toBe(15);
  });

  it("cosigns nothing that it can't remember, and nothing at all with a damaged memory", async () => {
    const file = join(memory.folder, witnessedPath(log.key.name));
    const kept = readFileSync(file);
    await log.append(entries(15, 1));
    writeFileSync(file, "damaged");
    await expect(ask(log, 15)).rejects.toMatchObject({ code: "internal" });
    expect((await witnessedLog(db, log.key.name))?.size).toBe(15);
    writeFileSync(file, kept);
    expect(await ask(log, 15)).toMatchObject({ status: 200 });
    const older = parseNote(kept).text.split("\n")[1];
    await memory.keep(log.key.name, { size: Number(older), root: new Uint8Array(32), note: kept });
    expect((await memory.last(log.key.name))?.size).toBe(16);
  });
});
