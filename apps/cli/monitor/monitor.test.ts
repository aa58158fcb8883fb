import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { fromBase64, toBase64, utf8 } from "../../../lib/domain/bytes.ts";
import { cosign, withSignatures } from "../../../lib/ledger/cosignature.ts";
import { httpSource } from "../../../lib/ledger/http.ts";
import type { MonitoredLog } from "../../../lib/ledger/monitor/follow.ts";
import { monitorRound, type MonitorOptions, type MonitorRound } from "../../../lib/ledger/monitor/monitor.ts";
import type { MonitorStore } from "../../../lib/ledger/monitor/store.ts";
import { ed25519Raw, KEY_TYPE, noteKey, parseNote } from "../../../lib/ledger/note.ts";
import { checkSplitView } from "../../../lib/ledger/split-view.ts";
import { parseCertificate, type Certificate } from "../../../lib/pki/certificate.ts";
import { rotationChallenge } from "../../../lib/records/rotation.ts";
import { parseEntry, type Act } from "../../../lib/records/statement.ts";
import { issue, makeCsr, pem, throwawayKey, type ThrowawayKey } from "../../../test/support/issuing.ts";
import { connect, type Db } from "../../../store/db.ts";
import { MonitorTables } from "../../../store/hub-monitor.ts";
import { migrateHub } from "../../../store/hub.ts";
import { tempDir, testDatabase } from "../../../test/support/index.ts";
import { MemoryLog, opensslVerify, testKey } from "../../../test/support/memory-log.ts";
import { countersign } from "../../../test/scenarios/countersign.ts";
import { testWorld, type TestParty, type TestWorld } from "../../../test/support/world.ts";
import { MonitorFile } from "./state.ts";

/** Three parties' ledgers over HTTP, each of which can be exchanged or taken away. */
class Served {
  readonly logs = new Map<string, MemoryLog>();
  readonly away = new Set<string>();
  readonly witnesses = new Map<string, Uint8Array>();
  readonly requests: string[] = [];
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      const [, kind, name, ...path] = (request.url ?? "").split("/");
      this.requests.push(request.url ?? "");
      if (this.away.has(name!)) return void response.destroy();
      const log = kind === "ledger" ? this.logs.get(name!) : undefined;
      const bytes = kind === "witness" ? this.witnesses.get(name!) : log?.resources.get(path.join("/"));
      response.writeHead(bytes === undefined ? 404 : 200).end(bytes);
    });
  }
  listen = () => new Promise<void>((up) => this.#server.listen(0, "127.0.0.1", up));
  close = () => this.#server.close();
  url(kind: "ledger" | "witness", name: string): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/${kind}/${name}`;
  }
}

/** A monitor's memory, as it is after a restart, and another one that is empty. */
interface Memory {
  readonly store: MonitorStore;
  again(): Promise<MonitorStore>;
  fresh(): Promise<MonitorStore>;
  close(): Promise<void>;
}

function fileMemory(file: string): Memory {
  let store = new MonitorFile(file);
  const open = (path: string): MonitorFile => {
    store.close();
    return (store = new MonitorFile(path));
  };
  return {
    store,
    again: async () => open(file),
    fresh: async () => open(`${file}.fresh`),
    close: async () => store.close(),
  };
}

async function databaseMemory(): Promise<Memory> {
  const open: Db[] = [];
  const make = async (): Promise<MonitorStore> => {
    const db = connect((await testDatabase()).url, { max: 4 });
    open.push(db);
    await migrateHub(db);
    return new MonitorTables(db);
  };
  return {
    store: await make(),
    again: async () => new MonitorTables(open.at(-1)!),
    fresh: make,
    close: async () => void (await Promise.all(open.map((db) => db.end()))),
  };
}

describe.each(["a file", "the hub's database"])("a monitor with its memory in %s", (kind) => {
  const served = new Served();
  let world: TestWorld;
  let parties: TestParty[];
  let memory: Memory;
  let store: MonitorStore;
  beforeEach(async () => {
    await served.listen();
    world = await testWorld(2);
    parties = [world.x, world.y, world.z];
    for (const { id, log } of parties) served.logs.set(id, log);
    memory = kind === "a file" ? fileMemory(join(tempDir("monitor"), "state.db")) : await databaseMemory();
    store = memory.store;
  });
  afterEach(async () => {
    await memory.close();
    served.close();
    served.away.clear();
    served.witnesses.clear();
  });
  afterAll(() => served.close());

  const logOf = ({ id, log }: TestParty): MonitoredLog => ({
    party: id,
    log: log.key,
    witnesses: [],
    fetch: httpSource(served.url("ledger", id)),
  });
  const round = (more: Partial<MonitorOptions> = {}, seen: Certificate[] = []): Promise<MonitorRound> => {
    const { rootSha256 } = world.policy;
    return monitorRound({ store, logs: parties.map(logOf), verify: opensslVerify, rootSha256, ...more }, seen);
  };
  const codes = ({ alarms }: MonitorRound) => alarms.map(({ code, party }) => `${code} ${party}`);
  /** A device certificate that its CA key signed beside the ledger. */
  const secretly = ({ ca }: Pick<TestParty, "ca">) =>
    issue(ca, "idevid", { commonName: "DEV-99999" }, throwawayKey().spki);
  const certified = (party: TestParty) =>
    party.log.entries.flatMap((entry) => {
      const { act } = parseEntry(entry);
      return act.type === "certified" ? [act as Act<"certified">] : [];
    });
  /** The same party's next act. */
  const again = (act: Act<"certified">, by: TestParty, change: Partial<Act<"certified">["fields"]>) =>
    by.line("certified", act.subject[0]!, { ...act.fields, ...change }, { prev: [...act.prev], grant: act.grant! });

  it("takes each ledger's entries in once, and goes on where it was", async () => {
    const first = await round();
    expect(first.alarms).toEqual([]);
    for (const { id, log } of parties) {
      const view = first.ledgers.find(({ party }) => party === id);
      const { length } = log.entries;
      expect(view).toEqual({ party: id, origin: log.key.name, state: "followed", entries: length, fresh: length });
    }
    store = await memory.again();
    served.requests.length = 0;
    const second = await round();
    expect(second.ledgers.map(({ fresh }) => fresh)).toEqual([0, 0, 0]);
    expect(served.requests.filter((url) => url.includes("/entries/"))).toEqual([]);
    await world.y.signed(
      "hub-registered",
      { name: "factory-y", digest: { sha256: "0".repeat(64) } },
      {
        hub: "hub",
        caSha256: "0".repeat(64),
        codeSha256: "0".repeat(64),
      },
    );
    await world.y.publish();
    expect((await round()).ledgers.map(({ fresh }) => fresh)).toEqual([0, 1, 0]);
  });

  it("finds certificates in the ledgers, and alarms over one that a CA key signed beside them", async () => {
    const [logged] = certified(world.z);
    const known = parseCertificate(fromBase64(logged!.fields.certificate));
    const secret = secretly(world.z);
    const foreign = (await testWorld(1)).root;
    const found = await round({}, [known, world.root, world.z.ca.certificate, secret, foreign]);
    expect(found.seen.map(({ state, party }) => [state, party])).toEqual([
      ["logged", "technician-z"],
      ["logged", "company-x"],
      ["logged", "factory-y"],
      ["unlogged", "technician-z"],
      ["foreign", undefined],
    ]);
    expect(codes(found)).toEqual(["unlogged-certificate technician-z"]);
    expect(found.alarms[0]).toMatchObject({ fresh: true, message: expect.stringMatching(/DEV-99999/) as string });
    // It stays, and is news once.
    expect((await round()).alarms).toMatchObject([{ code: "unlogged-certificate", fresh: false }]);
  });

  it("isn't sure of a certificate whose party's ledger it can't follow, and goes on with the others", async () => {
    await round();
    served.away.add("technician-z");
    const secret = secretly(world.z);
    await world.y.signed(
      "hub-registered",
      { name: "factory-y", digest: { sha256: "0".repeat(64) } },
      {
        hub: "hub",
        caSha256: "0".repeat(64),
        codeSha256: "0".repeat(64),
      },
    );
    await world.y.publish();
    const found = await round({}, [secret]);
    expect(found.ledgers.map(({ state, fresh }) => [state, fresh])).toEqual([
      ["followed", 0],
      ["followed", 1],
      ["unreachable", 0],
    ]);
    expect(found.ledgers[2]?.error).toMatch(/ledger\/technician-z\/checkpoint: no answer/);
    expect(found.seen).toMatchObject([{ state: "unsure", party: "technician-z" }]);
    expect(found.alarms).toEqual([]);
    served.away.clear();
    expect(codes(await round({}, [secret]))).toEqual(["unlogged-certificate technician-z"]);
  });

  /** A party says that a key takes the place of its CA's, with the proof of whichever. */
  async function rotate(party: TestParty, next: ThrowawayKey, prover: ThrowawayKey): Promise<void> {
    const grant = { origin: world.y.origin, leafHash: "1".repeat(64) };
    const of = { party: party.id, supersedes: grant, old: party.keyset.ca, new: toBase64(next.spki) };
    const proof = (by: ThrowawayKey) => toBase64(makeCsr(by, { cn: "a CA", challengePassword: rotationChallenge(of) }));
    await party.signed(
      "rotated",
      { name: party.id, digest: { sha256: "0".repeat(64) } },
      {
        role: "ca",
        old: { spki: of.old, proof: proof(party.ca.key) },
        new: { spki: of.new, proof: proof(prover) },
        grant,
        effectiveSize: 1,
      },
      { prev: [grant], grant },
    );
    await party.publish();
  }

  it("holds a party to every CA key that it has had, and to none that it hasn't proven", async () => {
    const next = throwawayKey();
    const later = secretly({ ca: { ...world.z.ca, key: next } });
    expect((await round({}, [later])).seen).toMatchObject([{ state: "foreign" }]);
    await rotate(world.z, next, next);
    const signed = { state: "unlogged", party: "technician-z" };
    expect((await round({}, [later, secretly(world.z)])).seen).toMatchObject([signed, signed]);

    // Another's key as its own, and away with the ledger: what that key signs is nobody's who could be asked.
    await rotate(world.z, world.y.ca.key, next);
    expect(codes(await round())).toContain("act-invalid technician-z");
    served.away.add("technician-z");
    const found = await round({}, [secretly(world.y)]);
    expect(found.seen).toMatchObject([{ state: "unlogged", party: "factory-y" }]);
    expect(codes(found)).toContain("unlogged-certificate factory-y");
  });

  it("alarms over a slot used twice, in one ledger or in two, between rounds or in one", async () => {
    const [one, two] = certified(world.z);
    await round();
    again(one!, world.z, {});
    again(two!, world.z, { certificate: one!.fields.certificate });
    await world.z.publish();
    again(one!, world.y, {});
    await world.y.publish();
    const found = await round();
    expect(
      found.alarms.map(({ code, party, message }) => [code, party, /again, for (\w+ \w+)/.exec(message)?.[1]]),
    ).toEqual(
      expect.arrayContaining([
        ["slot-reused", "technician-z", "the same"],
        ["slot-reused", "technician-z", expect.stringMatching(/^certificate/)],
        ["slot-reused", "factory-y", "the same"],
      ]),
    );
    expect(found.alarms).toHaveLength(3);
    expect((await round()).alarms).toHaveLength(3);
    // From nothing, the same.
    store = await memory.fresh();
    expect((await round()).alarms).toHaveLength(3);
  });

  it("alarms over entries that can't be, aren't signed, or belong elsewhere, and over what a party says itself", async () => {
    await round();
    world.z.put(utf8("{}"));
    const [act] = certified(world.z);
    world.z.put(world.y.log.entries[0]!);
    const other = testKey("p256");
    const own = world.z.act;
    Object.assign(world.z, { act: other });
    await world.z.signed(
      "hub-registered",
      { name: "technician-z", digest: { sha256: "0".repeat(64) } },
      {
        hub: "hub",
        caSha256: "0".repeat(64),
        codeSha256: "0".repeat(64),
      },
    );
    Object.assign(world.z, { act: own });
    await world.z.signed(
      "alarm",
      { name: act!.subject[0]!.name, digest: { sha256: "0".repeat(64) } },
      {
        what: "unlogged-certificate",
        evidence: { certificate: act!.fields.certificate },
      },
    );
    await world.z.publish();
    const found = await round();
    expect(found.alarms.map(({ code, message }) => `${code}: ${message}`)).toEqual([
      expect.stringMatching(/act-invalid: entry \d+ can't be read/),
      expect.stringMatching(/act-invalid: entry \d+ belongs to another ledger/),
      expect.stringMatching(/act-invalid: entry \d+ \(hub-registered\) is not signed/),
      expect.stringMatching(/party-alarm: raised an alarm itself: unlogged-certificate/),
    ]);
    expect(found.ledgers[2]).toMatchObject({ state: "followed", fresh: 4 });
  });

  it("alarms over another root than the pinned one", async () => {
    expect(codes(await round({ rootSha256: "0".repeat(64) }))).toEqual(["root-mismatch company-x"]);
  });

  it("alarms over a fork with evidence, and doesn't follow it", async () => {
    await round();
    const { y } = world;
    const fork = new MemoryLog(y.origin, y.log.signer);
    await fork.append([...y.log.entries.slice(0, -1), utf8("other"), utf8("more")]);
    served.logs.set(y.id, fork);
    const before = await store.position(y.id);
    const found = await round();
    expect(codes(found)).toEqual(["ledger-forked factory-y"]);
    expect(found.ledgers.map(({ state }) => state)).toEqual(["followed", "refused", "followed"]);
    expect(await checkSplitView(found.alarms[0]!.evidence, opensslVerify, y.log.key)).toMatchObject({
      origin: y.origin,
    });
    expect(await store.position(y.id)).toEqual(before);
    // The log's own key can't talk it away.
    served.logs.set(y.id, y.log);
    expect(codes(await round())).toEqual(["ledger-forked factory-y"]);
  });

  it("alarms over a rollback, and over what can't be verified, until it is over", async () => {
    await round();
    const { z } = world;
    const shorter = new MemoryLog(z.origin, z.log.signer);
    await shorter.append(z.log.entries.slice(0, 3));
    served.logs.set(z.id, shorter);
    expect(codes(await round())).toEqual(["ledger-rolled-back technician-z"]);
    served.logs.set(z.id, new MemoryLog(z.origin));
    await served.logs.get(z.id)!.append([utf8("x")]);
    expect(codes(await round())).toEqual(["ledger-rolled-back technician-z", "ledger-invalid technician-z"]);
    served.logs.set(z.id, z.log);
    expect(codes(await round())).toEqual([]);
  });

  it("holds a ledger against what its witnesses have cosigned of it", async () => {
    const { z } = world;
    const views = () => new Map([["witness.example/w", () => httpSource(served.url("witness", "w"))("checkpoint")]]);
    const logs = () => parties.map((party) => ({ ...logOf(party), ...(party === z ? { views: views() } : {}) }));
    expect(codes(await round({ logs: logs() }))).toEqual([]);
    served.witnesses.set("w", (await z.log.fetch("checkpoint"))!);
    expect(codes(await round({ logs: logs() }))).toEqual([]);
    // More of the same history than is shown here.
    const longer = new MemoryLog(z.origin, z.log.signer);
    served.witnesses.set("w", await longer.append([...z.log.entries, utf8("hidden")]));
    expect((await round({ logs: logs() })).alarms).toMatchObject([
      {
        code: "ledger-rolled-back",
        subject: "witness.example/w",
        message: expect.stringMatching(/w saw it\)/) as string,
      },
    ]);
    // Another history of the same size.
    const other = new MemoryLog(z.origin, z.log.signer);
    served.witnesses.set("w", await other.append([...z.log.entries.slice(0, -1), utf8("other")]));
    const found = await round({ logs: logs() });
    const fork = found.alarms.find(({ code }) => code === "ledger-forked");
    expect(await checkSplitView(fork!.evidence, opensslVerify, z.log.key)).toBeDefined();
    served.witnesses.set("w", utf8("junk"));
    expect(codes(await round({ logs: logs() }))).toHaveLength(2);
  });

  it("alarms over a witness that lags, and forgets it when it has caught up", async () => {
    const { z } = world;
    const signers = ["one", "two"].map((name) => ({ name: `${name}.example/w`, key: testKey("ed25519") }));
    const witnesses = signers.map(({ name, key }) => noteKey(name, KEY_TYPE.cosignature, ed25519Raw(key.spki)));
    const cosigned = async (...by: typeof signers) => {
      const note = (await z.log.fetch("checkpoint"))!;
      const { text } = parseNote(note);
      const lines = await Promise.all(by.map(({ name, key }) => cosign(text, name, key, 1_700_000_000)));
      return withSignatures(note, lines);
    };
    const at = (secondsLater: number) => ({
      logs: [{ ...logOf(z), witnesses }],
      now: () => new Date(Date.now() + secondsLater * 1000),
      lagMs: 60_000,
    });
    z.log.resources.set("cosigned/newest", await cosigned(...signers));
    expect(codes(await round(at(10_000)))).toEqual([]);
    again(certified(z)[0]!, z, { purpose: "renewal" });
    await z.publish();
    const soon = await round(at(0));
    expect(codes(soon)).toEqual([]);
    expect(soon.witnesses.map(({ behindMs }) => behindMs < 60_000)).toEqual([true, true]);
    // One has gone on, under the newest checkpoint itself.
    z.log.resources.set("checkpoint", await cosigned(signers[0]!));
    const found = await round(at(120));
    expect(codes(found)).toEqual(["witness-lagging technician-z"]);
    expect(found.alarms[0]?.message).toMatch(
      /two\.example\/w has cosigned \d+ of \d+ entries, and nothing for 1[0-9]+ s/,
    );
    expect(found.witnesses).toMatchObject([
      { witness: "one.example/w", behindMs: 0, time: "2023-11-14T22:13:20.000Z" },
      { witness: "two.example/w" },
    ]);
    z.log.resources.set("checkpoint", await cosigned(...signers));
    expect(codes(await round(at(240)))).toEqual([]);
  });

  it("is stopped between two bundles and takes the rest in later, none twice", async () => {
    const { z } = world;
    const template = certified(z)[0]!;
    for (let i = 0; i < 2500; i++) again(template, z, { lot: `lot-${i}` });
    await z.publish();
    const stopping = new AbortController();
    let bundles = 0;
    const logs = [
      {
        ...logOf(z),
        fetch: async (path: string) => {
          if (path.startsWith("tile/entries/") && ++bundles === 7) stopping.abort();
          return z.log.fetch(path);
        },
      },
    ];
    await expect(round({ logs, signal: stopping.signal })).rejects.toThrow();
    const { next } = (await store.position(z.id))!;
    expect(next).toBe(7 * 256);
    const rest = await round({ logs: [logOf(z)] });
    expect(rest.ledgers[0]).toMatchObject({ entries: z.log.entries.length, fresh: z.log.entries.length - next });
    expect(rest.alarms).toEqual([]);
  });

  it("lets a slow ledger hold the others up for no longer than its time, and goes on with it", async () => {
    const { y, z } = world;
    const template = certified(z)[0]!;
    for (let i = 0; i < 700; i++) again(template, z, { lot: `lot-${i}` });
    await z.publish();
    const slow: MonitoredLog = {
      ...logOf(z),
      fetch: async (path) => {
        if (path.startsWith("tile/entries/")) await new Promise((served) => setTimeout(served, 600));
        return z.log.fetch(path);
      },
    };
    const logs = [slow, logOf(y)];
    const before = performance.now();
    const first = await round({ logs, patienceMs: 400 });
    expect(performance.now() - before).toBeLessThan(5000);
    expect(first.ledgers).toMatchObject([{ state: "behind", fresh: 256 }, { state: "followed" }]);
    expect(first.ledgers[0]!.error).toMatch(/takes too long: the next round goes on/);
    let last = first;
    for (let rounds = 0; rounds < 5 && last.ledgers[0]!.state === "behind"; rounds++) {
      last = await round({ logs, patienceMs: 400 });
    }
    expect(last.ledgers[0]).toMatchObject({ state: "followed", entries: z.log.entries.length });
    expect(last.alarms).toEqual([]);
  });

  it("keeps a bounded number of alarms over a ledger that is wrong throughout", async () => {
    for (let i = 0; i < 1500; i++) world.z.put(utf8(`not an act ${i}`));
    await world.z.publish();
    const { alarms } = await round();
    expect(alarms).toHaveLength(257);
    expect(alarms.at(-1)!.message).toMatch(/^and more of its entries from \d+ on/);
    world.z.put(utf8("nor is this"));
    await world.z.publish();
    expect((await round()).alarms.filter(({ fresh }) => fresh)).toEqual([]);
  });

  it("survives whatever a log serves as cosigned, and compares its history too", async () => {
    const { z } = world;
    const signer = testKey("ed25519");
    const witness = noteKey("late.example/w", KEY_TYPE.cosignature, ed25519Raw(signer.spki));
    const logs = [{ ...logOf(z), witnesses: [witness] }];
    const note = z.log.resources.get("checkpoint")!;
    const line = await cosign(parseNote(note).text, witness.name, signer, 1_700_000_000);
    // Beyond the year 9999: not the time that was signed, yet well formed.
    line.signature.fill(0, 0, 1).fill(0x1f, 1, 8);
    z.log.resources.set("cosigned/newest", withSignatures(note, [line]));
    expect(codes(await round({ logs }))).toEqual(["ledger-invalid technician-z"]);
    z.log.resources.set("cosigned/newest", utf8("junk"));
    const found = await round({ logs });
    expect(found.ledgers).toMatchObject([{ state: "followed" }]);
    expect(found.alarms[0]!.message).toMatch(/serves as cosigned\/newest doesn't hold/);
    const fork = new MemoryLog(z.origin, z.log.signer);
    await fork.append([utf8("another")]);
    z.log.resources.set("cosigned/newest", fork.resources.get("checkpoint")!);
    expect(codes(await round({ logs }))).toEqual(["ledger-forked technician-z"]);
  });
});

describe("the command", () => {
  it("shares its file with no other monitor, and takes no other file for it", async () => {
    const file = join(tempDir("monitor"), "state.db");
    const store = new MonitorFile(file);
    expect(() => new MonitorFile(file)).toThrow(/another monitor has it/);
    const other = `${file}.other`;
    const strange = new DatabaseSync(other);
    strange.exec("CREATE TABLE x (y)");
    strange.close();
    expect(() => new MonitorFile(other)).toThrow(/no monitor's state/);
    writeFileSync(other, "text that is no database at all, and long enough to be looked at".repeat(20));
    expect(() => new MonitorFile(other)).toThrow(/no monitor's state/);
    expect(() => new MonitorFile(join(file, "no-folder", "x"))).toThrow(/can't be opened/);
    store.close();
  });

  it("is a command: one round, JSON, exit codes", async () => {
    const served = new Served();
    await served.listen();
    const world = await testWorld(2);
    const parties = [world.x, world.y, world.z];
    for (const { id, log } of parties) served.logs.set(id, log);
    const dir = tempDir("monitor-cli");
    const put = (name: string, text: string): string => {
      writeFileSync(join(dir, name), text);
      return join(dir, name);
    };
    const policy = put("policy.json", JSON.stringify(world.policy));
    const seen = join(dir, "seen");
    mkdirSync(seen);
    const ledgers = parties.flatMap(({ id }) => ["--ledger", `${id}=${served.url("ledger", id)}`]);
    const env = { COUNTERSIGN_HOME: join(dir, "no-stack") };
    const run = (...more: string[]) =>
      countersign(
        [
          "monitor",
          "--policy",
          policy,
          "--state",
          join(dir, "m.db"),
          "--seen",
          seen,
          "--evidence",
          dir,
          "--once",
          ...more,
        ],
        env,
      );
    served.away.add("factory-y");
    const away = await run(...ledgers);
    expect(away.code).toBe(3);
    expect(away.stderr).toMatch(/out of reach: factory-y/);
    expect(away.stdout).toMatch(/company-x +\d+ +\d+/);
    served.away.clear();

    const hostile = issue(world.y.ca, "hub-verification", { commonName: "DEV-\u202e9" }, throwawayKey().spki);
    writeFileSync(join(seen, "secret.pem"), pem(hostile));
    const { y } = world;
    const fork = new MemoryLog(y.origin, y.log.signer);
    await fork.append([...y.log.entries.toReversed(), utf8("x")]);
    const found = await run(...ledgers, "--json");
    expect(found.code).toBe(1);
    expect(JSON.parse(found.stdout)).toMatchObject({ ok: false, alarms: [{ code: "unlogged-certificate" }] });
    served.logs.set(y.id, fork);
    const forked = await run(...ledgers);
    expect(forked.code).toBe(1);
    expect(forked.stderr).toMatch(/2 alarms, the first: factory-y/);
    expect(forked.stdout).toContain("DEV-<U+202E>9");
    const evidence = JSON.parse(readFileSync(join(dir, "split-view-factory-y.json"), "utf8")) as unknown;
    expect(await checkSplitView(evidence, opensslVerify, y.log.key)).toBeDefined();
    expect(existsSync(join(dir, "m.db"))).toBe(true);
    served.close();
  }, 90_000);
});
