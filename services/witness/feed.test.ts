import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { createPlainServer, type HttpServer } from "../../apps/http/server.ts";
import { registerLedger } from "../../apps/gateway/routes/ledger.ts";
import { openCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { ed25519Raw, formatVkey, KEY_TYPE, noteKey, type NoteKey } from "../../lib/ledger/note.ts";
import { formatPolicy, meetsQuorum, openUnderPolicy, parsePolicy } from "../../lib/ledger/policy.ts";
import { LogSite } from "../../test/support/log-site.ts";
import { MemoryLog, opensslVerify, testKey } from "../../test/support/memory-log.ts";
import { siteDatabase } from "../../test/support/parties.ts";
import { TestWitness } from "../../test/support/test-witness.ts";
import { readCheckpoint } from "../../store/ledger.ts";
import { configuredPolicy, peersPolicy } from "./policy.ts";
import type { WitnessFeed } from "./feed.ts";
import { actCosigned } from "./release.ts";

const ORIGIN = "factory-y.example/log";

describe("a log's witnesses", () => {
  let site: LogSite;
  let one: TestWitness;
  let two: TestWitness;
  let server: HttpServer;
  let url: string;

  beforeAll(async () => {
    site = await LogSite.create(ORIGIN);
    one = new TestWitness("one.example/witness", await siteDatabase(), site.key);
    two = new TestWitness("two.example/witness", await siteDatabase(), site.key);
    await one.up();
    await two.up();
    server = createPlainServer({ logger: pino({ level: "silent" }) });
    registerLedger(server, site);
    url = `${await server.listen({ host: "127.0.0.1", port: 0 })}/ledger`;
  });
  afterEach(() => site.stopFeeds());
  afterAll(async () => {
    await Promise.all([one.down(), two.down(), server.close(), site.close()]);
    await Promise.all([one.db.end(), two.db.end()]);
  });
  let feed: WitnessFeed;
  const startFeed = (policy = site.policy([one, two])) => site.feed(policy);

  const served = async (path: string) => {
    const response = await fetch(`${url}/${path}`);
    return response.status === 200 ? new Uint8Array(await response.arrayBuffer()) : undefined;
  };

  it("cosign its checkpoints together, and the cosignatures are served with them", async () => {
    feed = await startFeed();
    const { size } = await site.record(300);
    expect(await feed.cosigned(size)).toBeGreaterThanOrEqual(size);
    await site.record(1);
    const grown = await site.record(1);
    await feed.cosigned(grown.size);
    const policy = parsePolicy(site.policy([one, two]));
    for (const path of ["checkpoint", "cosigned/newest", `cosigned/${grown.size}`]) {
      const opened = await openUnderPolicy((await served(path))!, policy, opensslVerify);
      expect(opened.size).toBe(grown.size);
      expect(opened.signatures.map(({ key }) => key.name)).toEqual([ORIGIN, one.key.name, two.key.name]);
      for (const { key, time } of opened.signatures) {
        if (key.type === KEY_TYPE.cosignature) expect(Math.abs(Date.now() / 1000 - time!)).toBeLessThan(60);
      }
    }
    const sizes = new TextDecoder()
      .decode(await served("cosigned/from/0"))
      .trim()
      .split("\n")
      .map(Number);
    expect(sizes.at(-1)).toBe(grown.size);
    expect(sizes).toEqual(sizes.toSorted((a, b) => a - b));
    expect(new TextDecoder().decode(await served(`cosigned/from/${grown.size + 1}`))).toBe("");
    expect(await served("cosigned/1000000")).toBeUndefined();
    expect(await served("cosigned/from/x")).toBeUndefined();
    // The log's own line is as it was signed.
    const plain = (await readCheckpoint(site.db))!.note;
    expect(Buffer.from((await served("checkpoint"))!.subarray(0, plain.length))).toEqual(Buffer.from(plain));
    expect(site.faults).toEqual([]);
    expect((await feed.status()).map(({ name, size: at, error }) => [name, at, error])).toEqual([
      [one.key.name, grown.size, undefined],
      [two.key.name, grown.size, undefined],
    ]);
  });

  it("hold nothing up when one is away: appends go on, what needs all waits and says for whom, and goes on by itself", async () => {
    feed = await startFeed();
    await two.down();
    const { leafHash, size } = await site.record(5);
    const waiting = actCosigned(site.db, (at) => feed.cosigned(at, 300), leafHash);
    await expect(waiting).rejects.toMatchObject({ code: "witnesses-missing", kind: "unavailable" });
    await expect(waiting).rejects.toThrow(/two\.example\/witness at http.*no answer/);
    await expect(waiting).rejects.not.toThrow(/one\.example/);
    const before = performance.now();
    await site.record(5);
    expect(performance.now() - before).toBeLessThan(5000);
    // Told once, not at every try.
    await vi.waitFor(() => expect(one.statuses.at(-1)).toBe(200), 20_000);
    expect(site.faults.map(([name]) => name)).toEqual([two.key.name]);
    const later = await site.record(3);
    const done = feed.cosigned(later.size, 10_000);
    await two.up();
    expect(await done).toBeGreaterThanOrEqual(later.size);
    expect(size).toBeLessThan(later.size);
    expect((await feed.status())[1]?.error).toBeUndefined();
  });

  it("count as the policy says: any one of them, or nobody", async () => {
    await two.down();
    try {
      feed = await startFeed(site.policy([one, two], "any"));
      const { size } = await site.record(2);
      expect(await feed.cosigned(size, 5000)).toBeGreaterThanOrEqual(size);
      await site.stopFeeds();
      feed = await startFeed(formatPolicy(site.key));
      const alone = await site.record(2);
      expect(await feed.cosigned(alone.size, 1000)).toBeGreaterThanOrEqual(alone.size);
      await vi.waitFor(async () => expect(await served(`cosigned/${alone.size}`)).toBeDefined(), 20_000);
    } finally {
      await two.up();
    }
  });

  it("are those of today: what left when fewer were asked for counts for nothing later", async () => {
    feed = await startFeed(formatPolicy(site.key));
    const { size } = await site.record(1);
    await vi.waitFor(async () => expect(await served(`cosigned/${size}`)).toBeDefined(), 20_000);
    await site.stopFeeds();
    await Promise.all([one.down(), two.down()]);
    feed = await startFeed();
    const early = await feed.cosigned(size, 300).catch((error: unknown) => error);
    await Promise.all([one.up(), two.up()]);
    expect(early).toMatchObject({ code: "witnesses-missing" });
    expect(await feed.cosigned(size, 10_000)).toBe(size);
  });

  it("are asked from where they stand, also after a restart that knows nothing of it", async () => {
    feed = await startFeed();
    const { size } = await site.record(2);
    await feed.cosigned(size);
    await site.stopFeeds();
    await site.db.query("DELETE FROM ledger_cosigned");
    await site.db.query("DELETE FROM ledger_cosignature");
    one.statuses.length = 0;
    feed = await startFeed();
    await feed.cosigned((await site.record(2)).size);
    expect(one.statuses.slice(0, 2)).toEqual([409, 200]);
    expect(site.faults).toEqual([]);
  });

  it("tell on a log that was rolled back or forked, and never cosign it", async () => {
    feed = await startFeed();
    await feed.cosigned((await site.record(1)).size);
    await site.stopFeeds();
    // Another history under the same key, seen by one witness alone.
    const newest = (await readCheckpoint(site.db))!;
    const fork = new MemoryLog(ORIGIN, site.signer);
    await fork.append(Array.from({ length: newest.size + 10 }, (_, i) => Buffer.from(`other ${i}`)));
    const other = new TestWitness("three.example/witness", await siteDatabase(), site.key);
    await other.up();
    try {
      const send = (note: Uint8Array) =>
        fetch(`${other.url}/add-checkpoint`, { method: "POST", body: Buffer.concat([Buffer.from("old 0\n\n"), note]) });
      expect((await send((await fork.fetch("checkpoint"))!)).status).toBe(200);
      feed = await startFeed(site.policy([other]));
      await vi.waitFor(() => expect(site.faults[0]?.[1]).toMatchObject({ code: "ledger-forked" }), 20_000);
      expect(String(site.faults[0]![1])).toMatch(/has seen \d+ entries of this log, which has \d+: was it rolled back/);
      await site.record(20);
      await vi.waitFor(
        () => expect(String(site.faults[1]?.[1])).toMatch(/seen other entries of this log: answered 422/),
        20_000,
      );
      await expect(feed.cosigned((await site.record(1)).size, 200)).rejects.toMatchObject({
        code: "witnesses-missing",
      });
      expect(other.statuses).not.toContain(undefined);
      const row = await site.db.query("SELECT * FROM ledger_cosignature WHERE name = $1", [other.key.name]);
      expect(row.rows).toEqual([]);
    } finally {
      await site.stopFeeds();
      await other.down();
      await other.db.end();
    }
  });

  it("are believed for nothing but a cosignature: no other key's, no endless or slow answer", async () => {
    let stub: { status: number; body: string; type?: string } | "hang" = "hang";
    const answer = (given: typeof stub) => void (stub = given);
    const http: Server = createServer((request, response) => {
      request.resume().on("end", () => {
        if (stub === "hang") return;
        response.writeHead(stub.status, { "content-type": stub.type ?? "text/plain" }).end(stub.body);
      });
    });
    await new Promise<void>((up) => http.listen(0, "127.0.0.1", up));
    const liar = {
      key: new TestWitness("liar.example/w", site.db).key,
      url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    };
    try {
      const { size } = await site.record(1);
      const fault = async (pattern: RegExp) => {
        feed = await startFeed(site.policy([liar]));
        await vi.waitFor(() => expect(site.faults.map(([, e]) => String(e)).join()).toMatch(pattern), 20_000);
        await site.stopFeeds();
        site.faults.length = 0;
      };
      await fault(/no answer/);
      answer({ status: 200, body: "x".repeat(200_000) });
      await fault(/no answer \(more than 65536 bytes\)/);
      answer({ status: 200, body: "" });
      await fault(/what is no cosignature/);
      answer({
        status: 200,
        body: `— ${liar.key.name} ${Buffer.concat([Buffer.from(liar.key.keyId, "hex"), Buffer.alloc(72)]).toString("base64")}\n`,
      });
      await fault(/what is no cosignature/);
      answer({ status: 200, body: `— other.example/w ${Buffer.alloc(76).toString("base64")}\n` });
      await fault(/no cosignature by liar/);
      answer({ status: 409, body: "1\n", type: "text/x.tlog.size" });
      await fault(/seen other entries/);
      answer({ status: 500, body: "no" });
      await fault(/answered 500: no/);
      answer({ status: 302, body: "" });
      await fault(/answered 302|no answer/);
      const opened = await openCheckpoint((await served("checkpoint"))!, site.key, opensslVerify, [liar.key]);
      expect(opened.signatures).toHaveLength(1);
      expect(size).toBeGreaterThan(0);
    } finally {
      http.closeAllConnections();
      http.close();
    }
  });
});

describe("a site's witness policy", () => {
  const log = new MemoryLog(ORIGIN).key;
  const other = new MemoryLog("company-x.example/log").key;
  const [own, theirs] = ["factory-y.example/log/witness", "company-x.example/log/witness"].map((name) =>
    noteKey(name, KEY_TYPE.cosignature, ed25519Raw(testKey("ed25519").spki)),
  ) as [NoteKey, NoteKey];
  const url = new Map([[theirs, "http://127.0.0.1:1/witness"]]);

  it("is for this log, counts others alone, and says where they are", () => {
    expect(configuredPolicy(formatPolicy(log, [theirs], "all", url), { log, witness: own }).witnesses.size).toBe(1);
    for (const [text, why] of [
      [formatPolicy(other, [theirs], "all", url), /doesn't name this site's log/],
      [formatPolicy(log, [theirs]), /no URL/],
      [formatPolicy(log, [own], "all", new Map([[own, "http://127.0.0.1:1"]])), /own: it never counts/],
    ] as const) {
      expect(() => configuredPolicy(text, { log, witness: own })).toThrow(why);
    }
  });

  it("stands whatever its peers call their witnesses, and whichever keys they share", async () => {
    const db = await siteDatabase();
    try {
      const raw = () => ed25519Raw(testKey("ed25519").spki);
      const vkey = (name: string, key = raw()) => formatVkey(noteKey(name, KEY_TYPE.cosignature, key));
      const shared = raw();
      const names = [
        ["child", "a", vkey(theirs.name)],
        ["child", "b", vkey("none")],
        ["child", "c", vkey("quorum-of-witnesses")],
        ["child", "d", vkey("any")],
        ["child", "e", vkey("del\u007f")],
        ["child", "f", vkey("f", shared)],
        ["child", "g", vkey("g", shared)],
        ["child", "h", vkey("h", log.publicKey)],
        ["parent", "x", formatVkey(theirs)],
      ] as const;
      for (const [direction, party, witness] of names) {
        const contact = { publicUrl: "http://127.0.0.1:2", witness };
        await db.query(
          "INSERT INTO peer (party, direction, contact, act_spki, act_key_id) VALUES ($1, $2, $3, '', '')",
          [party, direction, JSON.stringify(contact)],
        );
      }
      const found = await peersPolicy(db, log)();
      const keys = [...found.witnesses.values()];
      expect(keys.map(({ name }) => name)).toEqual([
        theirs.name,
        ...["none", "quorum-of-witnesses", "any", "del\u007f", "f"],
      ]);
      expect(found.witnesses.get(theirs.name)!.keyId).toBe(theirs.keyId);
      expect(meetsQuorum(found, new Set())).toBe(false);
      for (const key of keys) expect(meetsQuorum(found, new Set([key]))).toBe(true);
    } finally {
      await db.end();
    }
  });

  it("is any one of parent and children where none is configured, and nobody where nobody is known", async () => {
    const db = await siteDatabase();
    try {
      const policy = peersPolicy(db, log);
      expect((await policy()).quorum).toBe("none");
      const publicUrl = "http://127.0.0.1:2";
      await db.query(
        "INSERT INTO peer (party, direction, contact, act_spki, act_key_id) VALUES ('x', 'parent', $1, '', '')",
        [JSON.stringify({ publicUrl })],
      );
      expect((await policy()).quorum).toBe("none");
      await db.query("UPDATE peer SET contact = $1", [JSON.stringify({ publicUrl, witness: formatVkey(theirs) })]);
      const found = await policy();
      expect([...found.groups.values()]).toMatchObject([{ threshold: 1, members: [theirs.name] }]);
      expect([...found.urls.values()]).toEqual(["http://127.0.0.1:2/witness"]);
    } finally {
      await db.end();
    }
  });
});
