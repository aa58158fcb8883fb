import { execFile, execFileSync, spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { concatBytes, toBase64 } from "../../../lib/domain/bytes.ts";
import { formatAddCheckpoint } from "../../../lib/ledger/add-checkpoint.ts";
import { LogReader } from "../../../lib/ledger/reader.ts";
import { emptyRoot } from "../../../lib/ledger/tree.ts";
import { formatVkey, KEY_TYPE, noteKey, type NoteKey } from "../../../lib/ledger/note.ts";
import { formatPolicy, openUnderPolicy, parsePolicy } from "../../../lib/ledger/policy.ts";
import { askWitness } from "../../../services/witness/ask.ts";
import { readLedgerResource } from "../../../services/ledger/serve.ts";
import { readCheckpoint } from "../../../store/ledger.ts";
import { LogSite, type Asked } from "../../support/log-site.ts";
import { MemoryLog, opensslVerify } from "../../support/memory-log.ts";
import { siteDatabase } from "../../support/parties.ts";
import { tempDir, tool } from "../../support/index.ts";
import { TestWitness } from "../../support/test-witness.ts";

/** Our log under a real witness (litewitness), a real log (Tessera) under our witness, and torchwood's word on both. */

const run = promisify(execFile);
const folder = tempDir("witness");
let judge: string;
let litewitness: string;
beforeAll(() => {
  judge = join(folder, "judge");
  litewitness = join(folder, "litewitness");
  const build = (out: string, what: string) =>
    execFileSync(tool("go"), ["build", "-mod=readonly", "-o", out, what], {
      cwd: import.meta.dirname,
      stdio: "inherit",
    });
  build(judge, ".");
  build(litewitness, "filippo.io/torchwood/cmd/litewitness");
}, 600_000);

/** torchwood's verdict on a checkpoint under a tlog-policy. */
function torchwood(checkpoint: Uint8Array, policy: string): { status: number | null; out: string } {
  const [note, text] = [join(folder, "checkpoint"), join(folder, "policy")];
  writeFileSync(note, checkpoint);
  writeFileSync(text, policy);
  const { status, stdout, stderr } = spawnSync(judge, ["verify", note, text], { encoding: "utf8" });
  return { status, out: `${stdout}${stderr}`.trim() };
}

/** litewitness with its key in an ssh-agent of its own, and the logs put into its database as witnessctl does. */
class LiteWitness implements Asked {
  readonly key: NoteKey;
  readonly url: string;
  readonly #children: ChildProcess[];
  readonly #output: string[];

  private constructor(key: NoteKey, url: string, children: ChildProcess[], output: string[]) {
    this.key = key;
    this.url = url;
    this.#children = children;
    this.#output = output;
  }

  static async start(name: string, ...logs: readonly NoteKey[]): Promise<LiteWitness> {
    const dir = tempDir("lite");
    const [socket, file, db] = [join(dir, "agent"), join(dir, "key"), join(dir, "witness.db")];
    const agent = spawn(tool("ssh-agent"), ["-D", "-a", socket], { stdio: "ignore" });
    execFileSync(tool("ssh-keygen"), ["-q", "-t", "ed25519", "-N", "", "-f", file]);
    await vi.waitFor(() => expect(existsSync(socket)).toBe(true), 5000);
    execFileSync(tool("ssh-add"), ["-q", file], { env: { ...process.env, SSH_AUTH_SOCK: socket } });
    const fingerprint = execFileSync(tool("ssh-keygen"), ["-l", "-f", file], { encoding: "utf8" }).split(" ")[1]!;
    const blob = Buffer.from(readFileSync(`${file}.pub`, "utf8").split(" ")[1]!, "base64");
    const key = noteKey(name, KEY_TYPE.cosignature, new Uint8Array(blob.subarray(-32)));
    const port = await freePort();
    const args = ["-db", db, "-name", name, "-key", fingerprint, "-ssh-agent", socket, "-listen", `127.0.0.1:${port}`];
    const output: string[] = [];
    const witness = spawn(litewitness, args, { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [witness.stdout, witness.stderr])
      stream.on("data", (part: Buffer) => output.push(String(part)));
    const url = `http://127.0.0.1:${port}`;
    const started = new LiteWitness(key, url, [witness, agent], output);
    try {
      await vi.waitFor(async () => expect((await fetch(`${url}/`)).status).toBe(200), {
        timeout: 20_000,
        interval: 100,
      });
    } catch (cause) {
      started.stop();
      throw new Error(`litewitness didn't start: ${output.join("")}`, { cause });
    }
    const tables = new DatabaseSync(db);
    tables.exec("PRAGMA busy_timeout = 5000");
    for (const log of logs) {
      const insert = tables.prepare("INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)");
      insert.run(log.name, toBase64(emptyRoot()));
      tables.prepare("INSERT INTO key (origin, key) VALUES (?, ?)").run(log.name, formatVkey(log));
    }
    tables.close();
    return started;
  }

  get output(): string {
    return this.#output.join("");
  }
  stop(): void {
    for (const child of this.#children) child.kill();
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((up) => server.listen(0, "127.0.0.1", up));
  const { port } = server.address() as { port: number };
  await new Promise((down) => server.close(down));
  return port;
}

describe("litewitness", () => {
  let site: LogSite;
  let lite: LiteWitness;
  beforeAll(async () => {
    site = await LogSite.create("factory-y.example/log");
    lite = await LiteWitness.start("lite.example/w1", site.key);
  });
  afterEach(() => site.stopFeeds());
  afterAll(async () => {
    lite?.stop();
    await site?.close();
  });
  const newest = async () => (await readLedgerResource(site.db, "cosigned/newest"))!.bytes;

  it("cosigns our checkpoints as they grow, beside a witness of ours; torchwood takes them under our policy", async () => {
    const ours = new TestWitness("technician-z.example/witness", await siteDatabase(), site.key);
    await ours.up();
    try {
      const policy = site.policy([lite, ours]);
      const feed = await site.feed(policy);
      for (const count of [1, 1, 5, 250, 300, 1]) {
        const { size } = await site.record(count);
        await feed.cosigned(size);
        const note = await newest();
        const opened = await openUnderPolicy(note, parsePolicy(policy), opensslVerify);
        const times = opened.signatures.flatMap(({ key, time }) => (time === undefined ? [] : [`${key.name}@${time}`]));
        expect(times).toHaveLength(2);
        const { status, out } = torchwood(note, policy);
        expect(out).toMatch(new RegExp(`^${site.key.name} ${size} `));
        for (const time of times) expect(out).toContain(time);
        expect(status).toBe(0);
      }
      expect(site.faults).toEqual([]);
    } finally {
      await site.stopFeeds();
      await ours.down();
      await ours.db.end();
    }
  });

  it("is followed to where it stands when we have forgotten it", async () => {
    const policy = site.policy([lite]);
    await (await site.feed(policy)).cosigned((await site.record(3)).size);
    await site.stopFeeds();
    await site.db.query("DELETE FROM ledger_cosigned");
    await site.db.query("DELETE FROM ledger_cosignature");
    const { size } = await site.record(2);
    expect(await (await site.feed(policy)).cosigned(size)).toBeGreaterThanOrEqual(size);
    expect(torchwood(await newest(), policy).status).toBe(0);
  });

  it("refuses our fork and our rollback, and we say so; torchwood misses its cosignature as we do", async () => {
    const policy = site.policy([lite]);
    const feed = await site.feed(policy);
    const { size } = await site.record(1);
    await feed.cosigned(size);
    await site.stopFeeds();
    const post = async (old: number, log: MemoryLog, proof: readonly Uint8Array[] = []) => {
      const checkpoint = (await log.fetch("checkpoint"))!;
      const body = Buffer.from(formatAddCheckpoint({ oldSize: old, proof, checkpoint }));
      const response = await fetch(`${lite.url}/add-checkpoint`, { method: "POST", body });
      return [response.status, await response.text()];
    };
    // The same key over another history.
    const other = new MemoryLog(site.key.name, site.signer);
    await other.append(Array.from({ length: 3 }, (_, i) => Buffer.from(`other ${i}`)));
    expect(await post(0, other)).toEqual([409, `${size}\n`]);
    await other.append(Array.from({ length: size }, (_, i) => Buffer.from(`more ${i}`)));
    const reader = await LogReader.open({ fetch: other.fetch, log: other.key, verify: opensslVerify });
    expect((await post(size, other, await reader.consistencyProof(size)))[0]).toBe(422);

    // This log, with what litewitness has seen of it gone: as after a restore from a backup.
    const ask = { key: lite.key, url: lite.url, verify: opensslVerify, timeoutMs: 5000, oldSize: 0 };
    const shorter = new MemoryLog(site.key.name, site.signer);
    const checkpoint = await shorter.append([Buffer.from("restored")]);
    const rolledBack = askWitness({ ...ask, size: 1, checkpoint, proofFrom: async () => [] });
    await expect(rolledBack).rejects.toThrow(/has seen \d+ entries of this log, which has 1: was it rolled back/);
    const proofFrom = (oldSize: number) => reader.consistencyProof(oldSize);
    const forked = askWitness({ ...ask, size: reader.size, checkpoint: reader.checkpoint.note, proofFrom });
    await expect(forked).rejects.toMatchObject({ code: "ledger-forked" });
    for (const checkpoint of [reader.checkpoint.note, (await readCheckpoint(site.db))!.note]) {
      expect(torchwood(checkpoint, policy).status).toBe(1);
      await expect(openUnderPolicy(checkpoint, parsePolicy(policy), opensslVerify)).rejects.toThrow(/quorum/);
    }
  });
});

describe("a Tessera log under our witnesses", () => {
  it("is cosigned checkpoint by checkpoint, also after a restart, by as many as its policy asks for", async () => {
    const log = new MemoryLog("tessera.example/log");
    const one = new TestWitness("one.example/witness", await siteDatabase(), log.key);
    const two = new TestWitness("two.example/witness", await siteDatabase(), log.key);
    await Promise.all([one.up(), two.up()]);
    try {
      const dir = tempDir("tessera");
      const [skey, file] = [join(folder, "skey"), join(folder, "tessera-policy")];
      writeFileSync(skey, noteSigner(log));
      // Beside this process, which has to answer it meanwhile.
      const grow = async (count: number, policy: string) => {
        writeFileSync(file, policy);
        const args = ["log", dir, skey, file, String(count)];
        return (await run(judge, args, { encoding: "buffer", timeout: 90_000 })).stdout;
      };
      // The second time with a witness that has seen nothing of the log yet.
      for (const [count, total, witnesses] of [
        [3, 3, [one]],
        [4, 7, [one, two]],
      ] as const) {
        const urls = new Map(witnesses.map((w) => [w.key, w.url]));
        const policy = formatPolicy(log.key, [...urls.keys()], "all", urls);
        const checkpoint = await grow(count, policy);
        const opened = await openUnderPolicy(checkpoint, parsePolicy(policy), opensslVerify);
        expect(opened.size).toBe(total);
        expect(torchwood(checkpoint, policy)).toMatchObject({ status: 0 });
      }
      expect(new Set(one.statuses)).toEqual(new Set([200]));
      expect(two.statuses.slice(0, 2)).toEqual([409, 200]);
    } finally {
      await Promise.all([one.down(), two.down()]);
      await Promise.all([one.db.end(), two.db.end()]);
    }
  });
});

/** `PRIVATE+KEY+...` as Go's note package writes it, of a test log's key. */
function noteSigner(log: MemoryLog): string {
  const der = log.signer.privateKey.export({ format: "der", type: "pkcs8" });
  const seed = der.subarray(-32);
  return `PRIVATE+KEY+${log.key.name}+${log.key.keyId}+${toBase64(concatBytes(Uint8Array.of(1), seed))}`;
}
