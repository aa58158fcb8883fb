import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { formatVkey } from "../../lib/ledger/note.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import { parseEntry, type Act } from "../../lib/records/statement.ts";
import { startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { issue, issueCa, pem, throwawayKey, type ThrowawayCa } from "../../test/support/issuing.ts";
import { MemoryLog } from "../../test/support/memory-log.ts";
import { testWorld, type TestParty, type TestWorld } from "../../test/support/world.ts";
import { countersign } from "../../test/scenarios/countersign.ts";
import { connectDevice } from "../device/connect.ts";

/** A hub process of its own that follows three parties' ledgers over HTTP, each of which can be taken away. */
let hub: TestHub;
let strict: TestHub;
let world: TestWorld;
let server: Server;
const logs = new Map<string, MemoryLog>();
const away = new Set<string>();
const CA = "company-x-root";

beforeAll(async () => {
  world = await testWorld(2);
  const parties = [world.x, world.y, world.z];
  for (const { id, log } of parties) logs.set(id, log);
  server = createServer((request, response) => {
    const [, id, ...path] = (request.url ?? "").split("/");
    if (away.has(id!)) return void response.destroy();
    const bytes = logs.get(id!)?.resources.get(path.join("/"));
    response.writeHead(bytes === undefined ? 404 : 200).end(bytes);
  });
  await new Promise<void>((up) => server.listen(0, "127.0.0.1", up));
  const { port } = server.address() as AddressInfo;
  const ledgers = parties.map(({ id, log }) => ({
    party: id,
    url: `http://127.0.0.1:${port}/${id}`,
    vkey: formatVkey(log.key),
  }));
  // Looks of its own come too seldom for these tests: what they see was looked for because a device came.
  const monitor = { ledgers, rootSha256: world.policy.rootSha256, everySeconds: 3, graceSeconds: 1 };
  hub = await startTestHub({}, { monitor });
  strict = await startTestHub({}, { monitor: { ...monitor, unreachable: "refuse" } }, hub.databaseUrl);
  const offered = await hub.api("POST", "/api/v1/cas", { name: CA });
  const code = String(offered.body["code"]);
  const verification = issue(world.x.ca, "hub-verification", { commonName: code }, throwawayKey().spki);
  const proof = { ca: pem(world.root), verification: pem(verification) };
  expect((await hub.api("POST", `/api/v1/cas/${CA}/verify`, proof)).status).toBe(200);
}, 60_000);
afterAll(async () => {
  server?.close();
  await strict?.stop();
  await hub?.stop();
});

let slot = 0;
interface TestDevice {
  readonly id: string;
  readonly key: string;
  readonly certificate: Certificate;
  readonly above: readonly Certificate[];
}
function device(id: string, ca: ThrowawayCa = world.z.ca, above = [world.z.ca, world.y.ca]): TestDevice {
  const key = throwawayKey();
  const certificate = issue(ca, "idevid", { commonName: id }, key.spki);
  const keyPem = key.privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  return { id, key: keyPem, certificate, above: above.map((one) => one.certificate) };
}
async function log({ id, certificate }: TestDevice, party: TestParty = world.z): Promise<void> {
  const act = world.z.log.entries
    .map((entry) => parseEntry(entry).act)
    .find((one) => one.type === "certified") as unknown as Act<"certified">;
  const fields = { ...act.fields, lot: "LOT-2", slot: ++slot, certificate: toBase64(certificate.der) };
  party.line("certified", { name: id, digest: act.subject[0]!.digest }, fields, { prev: act.prev, grant: act.grant! });
  await party.publish();
}
const visit = ({ id, key, certificate, above }: TestDevice, at = hub) =>
  connectDevice({
    ...{ deviceId: id, hub: at.address, ca: at.infraCa.pem, messages: 1, timeoutMs: 15_000 },
    chain: pem(certificate, ...above),
    credentials: { key },
  });
const policy = async (unlogged: string): Promise<void> => {
  expect((await hub.api("PUT", `/api/v1/cas/${CA}/unlogged`, { unlogged })).body["unlogged"]).toBe(unlogged);
  await strict.api("PUT", `/api/v1/cas/${CA}/unlogged`, { unlogged });
};
const refused = { code: "hub-refused" };
const alarms = async (): Promise<{ code: string; party: string; message: string }[]> =>
  (await hub.api("GET", "/api/v1/monitor")).body["alarms"] as { code: string; party: string; message: string }[];
async function until(what: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 150; i++) {
    if (await what()) return;
    await new Promise((wake) => setTimeout(wake, 100));
  }
  throw new Error(`waited in vain: ${JSON.stringify((await hub.api("GET", "/api/v1/monitor")).body)}`);
}

describe("a hub that follows the ledgers", () => {
  it("refuses a certificate that no ledger holds, and lets it in as soon as one does", async () => {
    await policy("refuse");
    const one = device("DEV-90001");
    await expect(visit(one)).rejects.toMatchObject(refused);
    const { body } = await hub.api("GET", "/api/v1/status");
    expect(body["refusals"]).toMatchObject({ "hub-unlogged": 1 });
    await log(one);
    // No round in between but the one that it causes.
    expect(await visit(one)).toMatchObject({ acknowledged: 1 });
    expect(await visit(one, strict)).toMatchObject({ acknowledged: 1 });
  }, 60_000);

  it("sees a CA that was signed beside the ledgers, whatever it signs", async () => {
    const secret = issueCa(world.y.ca, { commonName: "Secret CA" }, { pathLen: 0 });
    const one = device("DEV-90002", secret, [secret, world.y.ca]);
    await expect(visit(one)).rejects.toMatchObject(refused);
    await log(one);
    await expect(visit(one)).rejects.toMatchObject(refused);
    await until(async () => (await alarms()).some(({ message }) => message.includes("Secret CA")));
    const alarm = (await alarms()).find(({ message }) => message.includes("Secret CA"));
    expect(alarm).toMatchObject({ code: "unlogged-certificate", party: "factory-y" });
  }, 60_000);

  it("lets it in with an alarm, or without, where its CA's policy says so; the alarm ends when a ledger holds it", async () => {
    await policy("allow");
    await visit(device("DEV-90003"));
    await policy("alarm");
    const one = device("DEV-90004");
    expect(await visit(one)).toMatchObject({ acknowledged: 1 });
    await until(async () => (await alarms()).some(({ message }) => message.includes("DEV-90004")));
    expect((await alarms()).some(({ message }) => message.includes("DEV-90003"))).toBe(false);
    const status = await countersign(["hub", "status", "--json"], { COUNTERSIGN_HOME: hub.home });
    expect(status.code).toBe(1);
    expect(JSON.parse(status.stdout)).toMatchObject({
      alarms: expect.arrayContaining([expect.objectContaining({ party: "technician-z" })]),
    });
    await log(one);
    await until(async () => !(await alarms()).some(({ message }) => message.includes("DEV-90004")));
  }, 60_000);

  it("goes on when a ledger is out of reach: known devices, and by policy unknown ones too", async () => {
    await policy("refuse");
    const known = device("DEV-90005");
    await log(known);
    await visit(known);
    away.add("technician-z");
    const ledger = async () =>
      ((await hub.api("GET", "/api/v1/monitor")).body["ledgers"] as { party: string; state: string }[]).find(
        ({ party }) => party === "technician-z",
      )!.state;
    await until(async () => (await ledger()) === "unreachable");
    expect(await visit(known)).toMatchObject({ acknowledged: 1 });
    const unknown = device("DEV-90006");
    await expect(visit(unknown, strict)).rejects.toMatchObject(refused);
    expect(await visit(unknown)).toMatchObject({ acknowledged: 1 });
    // Another party's can be asked, and hasn't it.
    const factory = device("DEV-90007", world.y.ca, [world.y.ca]);
    await expect(visit(factory)).rejects.toMatchObject(refused);
    // Back again, it hasn't this one, and that is an alarm now.
    away.delete("technician-z");
    await until(async () => (await alarms()).some(({ message }) => message.includes("DEV-90006")));
    await expect(visit(unknown)).rejects.toMatchObject(refused);
  }, 60_000);

  it("alarms over a slot used twice, and over a fork, which it doesn't follow", async () => {
    const [one, two] = [device("DEV-90008"), device("DEV-90009")];
    await log(one);
    slot--;
    await log(two);
    await until(async () => (await alarms()).some(({ code }) => code === "slot-reused"));
    const { z } = world;
    const fork = new MemoryLog(z.origin, z.log.signer);
    await fork.append([...z.log.entries.slice(0, -1), z.log.entries[0]!, z.log.entries[1]!]);
    logs.set(z.id, fork);
    await until(async () => (await alarms()).some(({ code }) => code === "ledger-forked"));
    // It is there, and what it doesn't show is unlogged.
    await expect(visit(device("DEV-90010"))).rejects.toMatchObject(refused);
    expect(await visit(one)).toMatchObject({ acknowledged: 1 });
    // What was found outlives the process.
    await hub.crashAndRestart();
    expect((await alarms()).map(({ code }) => code)).toEqual(expect.arrayContaining(["slot-reused", "ledger-forked"]));
    expect(await visit(one)).toMatchObject({ acknowledged: 1 });
  }, 60_000);
});
