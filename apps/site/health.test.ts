import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createPinFile, initToken, openToken, type Token } from "../../hsm/index.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { connect, migrate, type Db } from "../../store/db.ts";
import { FaultHsm } from "../../test/support/fault-hsm.ts";
import { softhsmDir, tempDir, testDatabase } from "../../test/support/index.ts";
import { signAtOnce } from "../../test/support/signing-load.ts";
import { testCertificate } from "../../test/support/test-pki.ts";
import { startManagement } from "../http/management.ts";
import { sharedLook } from "../http/readiness.ts";
import { createLogger } from "../http/logger.ts";
import type { HttpServer } from "../http/server.ts";
import { type HealthParts, siteComponents, siteMetrics } from "./health.ts";

let hsm: FaultHsm;
let token: Token;
let key: Signer;
let db: Db;
let parts: HealthParts;
let management: HttpServer;
let temporalUp = true;
let infrastructure: Certificate;

beforeAll(async () => {
  softhsmDir();
  const dir = tempDir("health");
  hsm = new FaultHsm(dir);
  const pin = await createPinFile(join(dir, "pin"));
  const limits = { callTimeoutMs: 400, waitTimeoutMs: 2_000, failures: 3, retryAfterMs: 60_000 };
  await initToken({ module: hsm.module, label: "site", pin });
  token = await openToken({ module: hsm.module, uri: "pkcs11:token=site", pin, sessions: 2, limits });
  key = await token.generateKey({ label: "act", algorithm: "ec-p256" });
  db = connect((await testDatabase()).url, { max: 4 });
  await migrate(db);
  const workflows = async () => {
    if (!temporalUp) throw new Error("connect ECONNREFUSED 127.0.0.1:7233, password=hunter2");
  };
  const remote = { circuit: "half-open" as const, failures: 2, repeats: 0, openSince: undefined, lastError: undefined };
  const sessions = { size: 4, inUse: 1, abandoned: 0, waiting: 9 };
  const processes = { health: () => [{ pid: 1, load: 7, token: { token: 'z "ca"', sessions, ...remote } }] };
  infrastructure = parseCertificate((await testCertificate("CN=infrastructure", { ca: true })).der);
  const identity = {
    party: "factory-y",
    infrastructure: { certificate: infrastructure.der, spki: infrastructure.spki },
  };
  parts = { db, workflows, token, caToken: undefined, processes, identity };
  const logger = createLogger({ name: "test", level: "silent" });
  management = await startManagement({ host: "127.0.0.1", port: 0, logger }, () => siteMetrics(parts));
});
afterAll(async () => {
  hsm.set();
  await management?.close();
  await token?.close();
  await db?.end();
});

async function metrics(): Promise<Map<string, number>> {
  const { port } = management.server.address() as AddressInfo;
  const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
  expect(answer.headers.get("content-type")).toMatch(/^text\/plain; version=0\.0\.4/);
  const samples = new Map<string, number>();
  for (const line of (await answer.text()).trimEnd().split("\n")) {
    if (/^# (HELP [a-z_]+ .+|TYPE [a-z_]+ (gauge|counter))$/.test(line)) continue;
    const [, name, value] = /^([a-z_]+(?:\{(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+\})?) (\S+)$/.exec(line) ?? [];
    expect(name, line).toBeDefined();
    samples.set(name!, Number(value));
  }
  return samples;
}

it("a well site is ready, and its metrics say what waits", async () => {
  expect(await siteComponents(parts)).toEqual([
    { name: "database", state: "up" },
    { name: "workflows", state: "up" },
    { name: "token site", state: "up" },
    { name: "issuing process 1", state: "degraded" },
  ]);
  await db.query(
    `INSERT INTO ledger_act (retry_key, type, entry, leaf_hash, prev)
     VALUES (decode(repeat('ab', 32), 'hex'), 'built', 'x', 'y', '{}')`,
  );
  await db.query("INSERT INTO ledger_pending (retry_keys) SELECT retry_key FROM ledger_act");
  const samples = await metrics();
  expect(Object.fromEntries(samples)).toMatchObject({
    'countersign_token_up{token="site",process="site"}': 1,
    'countersign_token_sessions{token="site",process="site"}': 2,
    'countersign_token_up{token="z \\"ca\\"",process="1"}': 0,
    'countersign_token_waiting{token="z \\"ca\\"",process="1"}': 9,
    'countersign_issuing_process_orders{process="1"}': 7,
    countersign_ledger_size: 0,
    countersign_ledger_pending_acts: 1,
    'countersign_batches_pending{kind="certify"}': 0,
    countersign_outbox_queued: 0,
    'countersign_expiry_timestamp_seconds{what="infrastructure-ca",subject="factory-y"}':
      infrastructure.notAfter.getTime() / 1000,
    'countersign_expiry_alerts{days="30"}': 1,
    'countersign_expiry_alerts{days="7"}': 0,
  });
  expect(samples.get("process_resident_memory_bytes")).toBeGreaterThan(1e6);
});

it("metrics of the tokens come also while the database is away", async () => {
  const closed = connect("postgres://nobody@127.0.0.1:1/none");
  const text = await siteMetrics({ ...parts, db: closed });
  expect(text).toContain("\ncountersign_database_up 0\n");
  expect(text).toContain('\ncountersign_token_up{token="site",process="site"} 1\n');
  expect(text).not.toMatch(/countersign_(ledger_size|expiry)/);
  await closed.end();
});

it("what doesn't answer is down, and holds nobody who asks", async () => {
  const hung = { ...parts, workflows: () => new Promise(() => undefined) };
  expect(await sharedLook(() => siteComponents(hung))()).toMatchObject({
    ok: false,
    components: [{ state: "up" }, { name: "workflows", state: "down", code: "timeout" }, { state: "up" }, {}],
  });
}, 10_000);

it("a token that is out of order and a server that is away make it unready, by their codes alone", async () => {
  hsm.set({ does: { fail: "DEVICE_REMOVED" } });
  temporalUp = false;
  await signAtOnce([key], 10, "site");
  const look = sharedLook(() => siteComponents(parts));
  const [one, two] = await Promise.all([look(), look()]);
  expect(one).toBe(two);
  expect(one).toMatchObject({
    ok: false,
    components: [
      { name: "database", state: "up" },
      { name: "workflows", state: "down", code: "component-unreachable" },
      { name: "token site", state: "down", code: "hsm-unavailable", since: expect.stringMatching(/^20.*Z$/) },
      { state: "degraded" },
    ],
  });
  expect(JSON.stringify(one)).not.toMatch(/hunter2|CKR_|\.so/);
  expect((await metrics()).get('countersign_token_up{token="site",process="site"}')).toBe(0);
});
