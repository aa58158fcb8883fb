import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { registerInbox } from "../../apps/gateway/routes/inbox.ts";
import type { GatewayDeps } from "../../apps/gateway/deps.ts";
import { createLogger } from "../../apps/http/logger.ts";
import { createServer, type HttpsServer } from "../../apps/http/server.ts";
import { nodeVerify } from "../../hsm/index.ts";
import { toBase64, utf8 } from "../../lib/domain/bytes.ts";
import type { Contact } from "../../lib/records/message.ts";
import { inTransaction, type Db } from "../../store/db.ts";
import { outPosition, returnNumber } from "../../store/messages.ts";
import { pinPeer } from "../../store/parties.ts";
import {
  Correspondent,
  invite,
  joinBody,
  makeTestParty,
  siteDatabase,
  type TestParty,
} from "../../test/support/parties.ts";
import { softhsmDir } from "../../test/support/index.ts";
import { Applier } from "./applier.ts";
import { actKeyId, contactOf } from "./identity.ts";
import { Inbox } from "./inbox.ts";
import { enqueue, Outbox, type OutboxOptions } from "./outbox.ts";

/** Factory-Y's outbox, Company-X's inbox, and HTTPS between them. */
let theirs: Db;
let ours: Db;
let parent: TestParty;
let child: TestParty;
let server: HttpsServer;
let port: number;
let clock: Date | undefined;
/** What the network does to an answer: "lose" stores the envelope and cuts the connection. */
let weather: ("lose" | "cut" | "busy")[] = [];
const outboxes: Outbox[] = [];
let arrived: string[] = [];

beforeAll(async () => {
  const hsm = softhsmDir();
  parent = await makeTestParty(hsm, "company-x");
  child = await makeTestParty(hsm, "factory-y");
  theirs = await siteDatabase();
  ours = await siteDatabase();
  server = createServer({
    tls: { key: readFileSync(parent.server.keyFile, "utf8"), cert: readFileSync(parent.server.certFile, "utf8") },
    logger: createLogger({ name: "test", level: "silent" }),
  });
  const inbox = new Inbox({ db: theirs, party: "company-x", verify: nodeVerify, now: () => clock ?? new Date() });
  server.addHook("onRequest", async (request, reply) => {
    const today = weather[0];
    if (today !== "cut" && today !== "busy") return;
    weather.shift();
    if (today === "busy") return reply.code(503).send("busy");
    reply.hijack();
    request.raw.socket.destroy();
  });
  const open: Inbox["open"] = async (line) => {
    const opened = await inbox.open(line);
    const take = async (body: Uint8Array) => {
      const answer = await opened.take(body);
      arrived.push(answer.id);
      return answer;
    };
    return { ...opened, take };
  };
  server.addHook("onSend", async (request, reply) => {
    if (weather[0] !== "lose" || reply.statusCode !== 200) return;
    weather.shift();
    request.raw.socket.destroy();
  });
  registerInbox(server, { inbox: { open } } as unknown as GatewayDeps);
  await server.listen({ host: "127.0.0.1", port: 0 });
  port = (server.server.address() as { port: number }).port;
});
afterAll(async () => {
  await server?.close();
  await Promise.all([theirs?.end(), ours?.end()]);
  await Promise.all([parent?.close(), child?.close()]);
});

beforeEach(async () => {
  clock = undefined;
  weather = [];
  arrived = [];
  for (const db of [theirs, ours]) await db.query("TRUNCATE peer, invitation, delegation, inbox, outbox CASCADE");
  await pinParent();
});
afterEach(async () => {
  await Promise.all(outboxes.splice(0).map((outbox) => outbox.stop()));
});

async function pinParent(change: Partial<Contact> = {}): Promise<void> {
  const contact = { ...contactOf(parent.identity), gateway: `https://127.0.0.1:${port}`, ...change };
  const { act } = parent.identity;
  await inTransaction(ours, (tx) =>
    pinPeer(tx, {
      party: "company-x",
      direction: "parent",
      contact,
      actSpki: act.spki,
      actKeyId: actKeyId(parent.identity),
    }),
  );
}

async function run(options: Partial<OutboxOptions> = {}): Promise<Outbox> {
  const { identity } = child;
  const outbox = new Outbox({
    db: ours,
    party: "factory-y",
    signer: identity.act,
    keyId: actKeyId(identity),
    ...options,
  });
  outboxes.push(outbox);
  await outbox.start();
  return outbox;
}

async function queueJoin(): Promise<void> {
  const invitation = await invite(theirs, parent, "factory-y");
  const body = await joinBody(child, invitation);
  await enqueue(ours, { receiver: "company-x", type: "join", retryKey: "join", body });
}
const queueNote = (n: number, retryKey = `note/${n}`): Promise<void> =>
  enqueue(ours, { receiver: "company-x", type: "acceptance", retryKey, body: { act: toBase64(utf8(`act ${n}`)) } });

interface Row {
  state: string;
  sequence: number | null;
  error_code: string | null;
}
const rows = async (): Promise<Row[]> =>
  (await ours.query<Row>("SELECT state, sequence, error_code FROM outbox ORDER BY ordinal")).rows;

async function until(done: () => Promise<boolean>, ms = 15_000): Promise<void> {
  for (const deadline = Date.now() + ms; !(await done()); await sleep(25)) {
    if (Date.now() > deadline) throw new Error(`not in time: ${JSON.stringify(await rows())}`);
  }
}
const settled = (): Promise<void> => until(async () => (await rows()).every(({ state }) => state !== "queued"));
const stored = async (): Promise<string[]> =>
  (await theirs.query<{ body: Uint8Array }>("SELECT body FROM inbox ORDER BY sequence")).rows
    .slice(1)
    .map(({ body }) =>
      Buffer.from((JSON.parse(Buffer.from(body).toString()) as { act: string }).act, "base64").toString(),
    );

describe("the outbox", () => {
  it("delivers in order, over TLS, what was queued before and after its start", async () => {
    await queueJoin();
    for (let n = 1; n <= 3; n++) await queueNote(n);
    await run();
    for (let n = 4; n <= 20; n++) await queueNote(n);
    await settled();
    expect(await stored()).toEqual(Array.from({ length: 20 }, (_, i) => `act ${i + 1}`));
    expect((await rows()).map(({ sequence }) => sequence)).toEqual(Array.from({ length: 21 }, (_, i) => i + 1));
  });

  it("sends a message once for each retry key", async () => {
    await queueJoin();
    await Promise.all([queueNote(1), queueNote(1), queueNote(1)]);
    await run();
    await settled();
    expect(await stored()).toEqual(["act 1"]);
  });

  it("sends nothing of a transaction that was rolled back", async () => {
    await queueJoin();
    await inTransaction(ours, async (tx) => {
      await enqueue(tx, { receiver: "company-x", type: "acceptance", retryKey: "lost", body: { act: "" } });
      throw new Error("undone");
    }).catch(() => undefined);
    await run();
    await settled();
    expect(await rows()).toHaveLength(1);
  });

  it("delivers again after lost answers, cut lines and a busy receiver; the receiver keeps each once", async () => {
    await queueJoin();
    for (let n = 1; n <= 4; n++) await queueNote(n);
    weather = ["lose", "cut", "lose", "busy", "lose"];
    const faults: string[] = [];
    await run({ onFault: (receiver) => faults.push(receiver) });
    await settled();
    expect(weather).toEqual([]);
    expect(faults).toHaveLength(5);
    expect(await stored()).toEqual(["act 1", "act 2", "act 3", "act 4"]);
    // The same bytes were sent again: repeated ids, each with one row.
    expect(arrived.length).toBe(5 + 3);
    expect(new Set(arrived).size).toBe(5);
  });

  it("keeps its order and numbers when two processes deliver", async () => {
    await queueJoin();
    for (let n = 1; n <= 10; n++) await queueNote(n);
    await Promise.all([run(), run()]);
    for (let n = 11; n <= 15; n++) await queueNote(n);
    await settled();
    const order = await stored();
    expect(order.toSorted((a, b) => Number(a.slice(4)) - Number(b.slice(4)))).toEqual(order);
    expect(order).toHaveLength(15);
  });

  it("goes on where it was stopped", async () => {
    await queueJoin();
    await queueNote(1);
    weather = ["lose"];
    const first = await run();
    await until(async () => arrived.length > 0);
    await first.stop();
    await queueNote(2);
    await run();
    await settled();
    expect(await stored()).toEqual(["act 1", "act 2"]);
  });

  it("stops at once while the receiver is out of reach", async () => {
    await ours.query("UPDATE peer SET contact = jsonb_set(contact, '{gateway}', '\"https://127.0.0.1:1\"')");
    await queueJoin();
    const outbox = await run();
    await sleep(300);
    const started = performance.now();
    await outbox.stop();
    expect(performance.now() - started).toBeLessThan(5000);
    expect(await rows()).toMatchObject([{ state: "queued" }]);
  });

  it("gives a refused message's number to the next one, and says why", async () => {
    const invitation = await invite(theirs, parent, "factory-y");
    const body = await joinBody(child, invitation);
    const spent = { ...body, nonce: "x".repeat(43) };
    await enqueue(ours, { receiver: "company-x", type: "join", retryKey: "join/bad", body: spent });
    await enqueue(ours, { receiver: "company-x", type: "join", retryKey: "join/good", body });
    const refusals: string[] = [];
    await run({ onRefused: async ({ type }, { code }) => void refusals.push(`${type} ${code}`) });
    await settled();
    expect(await rows()).toMatchObject([
      { state: "refused", sequence: 1, error_code: "invitation-invalid" },
      { state: "delivered", sequence: 1, error_code: null },
    ]);
    expect(refusals).toEqual(["join invitation-invalid"]);
  });

  it("gives back no number of another epoch, when what goes out again is refused", async () => {
    await queueNote(1);
    await ours.query("UPDATE outbox SET epoch = 1, sequence = 4, envelope = 'x', envelope_sha256 = 'x'");
    await ours.query("UPDATE peer SET out_epoch = 2, out_sequence = 4, out_digest = 'newest'");
    const { rows: sent } = await ours.query<{ id: string }>("SELECT id FROM outbox");
    await inTransaction(ours, (tx) => returnNumber(tx, sent[0]!.id, { code: "act-invalid", message: "no" }));
    expect(await outPosition(ours, "company-x")).toEqual({ epoch: 2, sequence: 4, digest: "newest" });
    expect(await rows()).toMatchObject([{ state: "refused" }]);
  });

  it("tells of a refusal again when it couldn't keep that it did", async () => {
    const body = { ...(await joinBody(child, await invite(theirs, parent, "factory-y"))), nonce: "x".repeat(43) };
    await enqueue(ours, { receiver: "company-x", type: "join", retryKey: "join", body });
    let told = 0;
    const onRefused = async (): Promise<void> => {
      if (++told === 1) throw new Error("not now");
    };
    await run({ onRefused });
    await settled();
    expect(told).toBe(2);
  });

  it("signs anew what expired before it was taken", async () => {
    await queueJoin();
    await run();
    await settled();
    clock = new Date(Date.now() + 40 * 86_400_000);
    await queueNote(1);
    await until(async () => (await ours.query("SELECT 1 FROM outbox WHERE state = 'queued'")).rowCount === 1);
    await sleep(200);
    clock = undefined;
    await settled();
    expect(await stored()).toEqual(["act 1"]);
    expect((await rows()).map(({ sequence }) => sequence)).toEqual([1, 2]);
  });

  it.each([
    ["a server with another CA's certificate", (): Partial<Contact> => ({ tlsCa: contactOf(child.identity).tlsCa })],
    ["a server under another name", (): Partial<Contact> => ({ gateway: `https://127.0.0.2:${port}` })],
  ])("gives nothing to %s", async (_what, change) => {
    await ours.query("TRUNCATE peer CASCADE");
    await pinParent(change());
    await queueJoin();
    const faults: unknown[] = [];
    await run({ onFault: (_receiver, error) => faults.push(error) });
    await until(async () => faults.length >= 2);
    expect(faults[0]).toMatchObject({ code: "component-unreachable" });
    expect(arrived).toEqual([]);
    expect(await rows()).toMatchObject([{ state: "queued" }]);
  });
});

describe("the applier", () => {
  it("hands each sender's messages over in order, at least once, and stops at the first that fails", async () => {
    const letters = new Correspondent(child, "company-x");
    const inbox = new Inbox({ db: theirs, party: "company-x", verify: nodeVerify });
    const invitation = await invite(theirs, parent, "factory-y");
    const sent = [await letters.write("join", await joinBody(child, invitation))];
    for (let n = 0; n < 4; n++) sent.push(await letters.write("acceptance", { act: "" }));
    for (const { wire } of sent) await inbox.receive(wire);

    const seen: string[] = [];
    let fail = 2;
    const applier = new Applier({
      db: theirs,
      handlers: {
        acceptance: async ({ id }) => {
          const n = sent.findIndex(({ message }) => message.id === id);
          seen.push(`${n}`);
          if (n === 2 && fail-- > 0) throw new Error("not now");
        },
      },
    });
    await applier.start();
    const unapplied = async (): Promise<number> =>
      (await theirs.query("SELECT 1 FROM inbox WHERE applied IS NULL")).rowCount ?? 0;
    try {
      await until(async () => (applier.wake(), (await unapplied()) === 0));
    } finally {
      await applier.stop();
    }
    expect(seen).toEqual(["1", "2", "2", "2", "3", "4"]);
  });

  it("serves every sender, however much of another's waits", async () => {
    const sender = (party: string, direction: string) =>
      theirs.query(`INSERT INTO peer (party, direction, contact, act_spki, act_key_id) VALUES ($1, $2, '{}', $3, $1)`, [
        party,
        direction,
        Buffer.from(party),
      ]);
    const message = (party: string, from: number, to: number) =>
      theirs.query(
        `INSERT INTO inbox (sender, epoch, sequence, id, type, envelope, envelope_sha256, body)
         SELECT $1, 1, n, gen_random_uuid(), 'acceptance', '', $1 || n, '' FROM generate_series($2::int, $3::int) n`,
        [party, from, to],
      );
    await sender("stuck", "child");
    await sender("brisk", "child");
    await message("stuck", 1, 600);
    // Numbered after a whole page of the other's.
    await message("brisk", 1000, 1600);
    const tried: string[] = [];
    const applier = new Applier({
      db: theirs,
      handlers: {
        acceptance: async ({ sender: party }) => {
          tried.push(party);
          if (party === "stuck") throw new Error("not now");
        },
      },
    });
    await applier.start();
    const left = async (party: string): Promise<number> =>
      (await theirs.query("SELECT 1 FROM inbox WHERE applied IS NULL AND sender = $1", [party])).rowCount ?? 0;
    try {
      // In one round: the poll comes only after seconds.
      await until(async () => (await left("brisk")) === 0);
    } finally {
      await applier.stop();
    }
    expect(await left("stuck")).toBe(600);
    expect(tried.filter((party) => party === "stuck").length).toBeLessThan(10);
  });
});
