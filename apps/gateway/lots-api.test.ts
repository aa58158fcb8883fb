import { execFile } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { Client, Connection, type WorkflowClient } from "@temporalio/client";
import { DefaultLogger, NativeConnection, Runtime, Worker } from "@temporalio/worker";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { custodyActivities } from "../../activities/custody.ts";
import { firmwareActivities } from "../../activities/firmware.ts";
import { issuingActivities } from "../../activities/issuing.ts";
import { receiveHandoff } from "../../contracts/lots.ts";
import { QUEUES } from "../../contracts/queues.ts";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import type { Identity } from "../../services/parties/identity.ts";
import { PROJECT_ROOT, softhsmDir, tempDir, testTemporal } from "../../test/support/index.ts";
import { issue, pem, throwawayKey } from "../../test/support/issuing.ts";
import { lotSite, testDevice, testDevices, type LotSite, type TestDevice } from "../../test/support/lot-site.ts";
import { SiteClient, type ClientRole } from "../cli/site-client.ts";
import { csrManifest, stationKeyOf } from "../cli/station-key.ts";
import { postCsrs, postInstallations, Station, type StationResult } from "../cli/station.ts";
import { createLogger } from "../http/logger.ts";
import { createServer, type HttpsServer } from "../http/server.ts";
import { workflowBundle } from "../site/workflow-bundle.ts";
import { registerLots } from "./routes/lots.ts";
import { updated } from "./update.ts";

/** The lot's routes over real TLS, with Temporal, Postgres and SoftHSM behind them, as the station and the CLI see them. */

const PARTY = "technician-z";
/** A lot's batches that may wait. */
const WAITING = 40;
const LAYOUTS = [{ format: "esp-secure-cert", template: "esp-secure-cert.bin" }];

let site: LotSite;
let app: HttpsServer;
let workflows: WorkflowClient;
let home: string;
let station: SiteClient;
let operator: SiteClient;
let technician: SiteClient;
const stops: (() => Promise<unknown> | unknown)[] = [];

beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger("ERROR") });
  const { module } = softhsmDir();
  site = await lotSite({ party: PARTY, module });
  stops.push(() => site.close());
  const { address, namespace } = await testTemporal();
  const native = await NativeConnection.connect({ address });
  const worker = await Worker.create({
    connection: native,
    namespace,
    taskQueue: QUEUES.site,
    workflowBundle: { codePath: await workflowBundle() },
    activities: {
      ...custodyActivities(site.custody),
      ...issuingActivities(site.issuing),
      ...firmwareActivities(site.custody),
    },
  });
  const running = worker.run();
  const connection = await Connection.connect({ address });
  stops.push(async () => {
    worker.shutdown();
    await running;
    await native.close();
    await connection.close();
  });

  home = tempDir("home");
  const infra = join(home, PARTY, "infra");
  mkdirSync(infra, { recursive: true });
  const infraPem = pem(site.infrastructure.certificate);
  writeFileSync(join(infra, "ca.pem"), infraPem);
  for (const role of ["operator", "station", "technician"]) {
    const client = site.client(role);
    writeFileSync(join(infra, `${role}.pem`), client.pem);
    writeFileSync(join(infra, `${role}.key`), client.keyPem);
  }
  const key = throwawayKey();
  const san = [{ kind: "ip" as const, value: Uint8Array.of(127, 0, 0, 1) }];
  const server = issue(site.infrastructure, "server", { commonName: "gateway" }, key.spki, { san });
  app = createServer({
    tls: {
      key: String(key.privateKey.export({ type: "pkcs8", format: "pem" })),
      cert: pem(server),
      clientCa: infraPem,
    },
    logger: createLogger({ name: "test", level: "silent" }),
  });
  const identity = {
    party: PARTY,
    infrastructure: { certificate: site.infrastructure.certificate.der, spki: site.infrastructure.key.spki },
  } as Identity;
  workflows = new Client({ connection, namespace }).workflow;
  registerLots(app, { db: site.db, identity, workflows, custody: site.custody, waitingBatches: WAITING });
  await app.listen({ host: "127.0.0.1", port: 0 });
  stops.push(() => app.close());
  const url = `https://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
  writeFileSync(join(home, PARTY, "site.json"), JSON.stringify({ party: PARTY, gateway: { url } }));
  const open = (role: ClientRole) => SiteClient.open(PARTY, { home, role });
  [operator, station, technician] = await Promise.all([open("operator"), open("station"), open("technician")]);
  stops.push(() => [operator, station, technician].forEach((client) => client.close()));
}, 120_000);
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
});

const pemOf = ({ csr }: TestDevice): string => pemEncode("CERTIFICATE REQUEST", csr);
let lots = 0;
async function openLot(slots: number): Promise<string> {
  const id = `api-${++lots}`;
  await operator.post("/api/v1/lots", { id, slots, issuer: PARTY, profile: "ldevid", layouts: LAYOUTS });
  return id;
}
async function all(run: AsyncGenerator<StationResult>): Promise<StationResult[]> {
  const results: StationResult[] = [];
  for await (const result of run) results.push(result);
  return results;
}

describe("lots", () => {
  it("open once, and again with the same terms only", async () => {
    const id = await openLot(3);
    const terms = { id, slots: 3, issuer: PARTY, profile: "ldevid", layouts: LAYOUTS };
    expect(await operator.post("/api/v1/lots", terms)).toMatchObject({ id, state: "open" });
    const other = operator.post("/api/v1/lots", { ...terms, slots: 4 });
    await expect(other).rejects.toMatchObject({ code: "already-exists" });
    const { lots } = await station.get<{ lots: { id: string }[] }>("/api/v1/lots");
    expect(lots.map((lot) => lot.id)).toContain(id);
  });

  it.each([
    [{ slots: 0 }, "input-invalid"],
    [{ profile: "root" }, "input-invalid"],
    [{ issuer: "nobody" }, "not-found"],
    [{ layouts: [{ format: "esp-secure-cert", template: "../site.json" }] }, "input-invalid"],
    [{ layouts: [{ format: "esp-secure-cert", template: "none.bin" }] }, "input-invalid"],
    [{ extra: 1 }, "input-invalid"],
    [{ certificate: { days: 1097 } }, "profile-violation"],
    [{ certificate: { days: 0 } }, "input-invalid"],
    [{ certificate: { hardwareType: "1.3.6.1.4.1.99999.1" } }, "profile-violation"],
    [{ certificate: { serialNumber: "1" } }, "input-invalid"],
  ])("refuse %o with %s", async (change, code) => {
    const terms = { id: "api-bad", slots: 3, issuer: PARTY, profile: "ldevid", layouts: LAYOUTS, ...change };
    await expect(operator.post("/api/v1/lots", terms)).rejects.toMatchObject({ code });
    await expect(operator.get("/api/v1/lots/api-bad")).rejects.toMatchObject({ code: "lot-not-found" });
  });

  it("are for operators to open, batches for stations, installations for technicians", async () => {
    const id = await openLot(1);
    await expect(station.post("/api/v1/lots", {})).rejects.toMatchObject({ code: "unauthorized" });
    const path = `/api/v1/lots/${id}`;
    await expect(technician.postNdjson(`${path}/batches`, [])).rejects.toMatchObject({ code: "unauthorized" });
    await expect(station.postNdjson(`${path}/installations`, [])).rejects.toMatchObject({ code: "unauthorized" });
    await expect(postCsrs(operator, { lot: id, kind: "built", csrs: [] })).rejects.toMatchObject({ code: "usage" });
  });
});

describe("a workflow that nobody works on", () => {
  it("keeps a request waiting for so long and no longer", async () => {
    const handle = await workflows.start("handoff", {
      workflowId: "handoff/nobody",
      taskQueue: "nobody",
      args: [{ handoff: "nobody", direction: "in" }],
    });
    const began = performance.now();
    const asked = updated(workflows, "the receipt of nobody", () => handle.executeUpdate(receiveHandoff), 1_500);
    await expect(asked).rejects.toMatchObject({
      code: "timeout",
      message: "the receipt of nobody isn't done after 2 seconds: look at its state, and ask again",
    });
    expect(performance.now() - began).toBeLessThan(10_000);
    await handle.terminate();
  });
});

describe("a station", () => {
  it("gets answers in order over many batches, garbage in its place", async () => {
    const lot = await openLot(700);
    const csrs = testDevices(600).map(pemOf);
    csrs.splice(300, 0, "garbage", pemEncode("CERTIFICATE REQUEST", Uint8Array.of(0x30, 0)));
    const seen: number[] = [];
    const run = Station.at(station).then((s) => s.sign(lot, csrs, { parallel: 3, onProgress: (n) => seen.push(n) }));
    const results = await all(await run);
    expect(results).toHaveLength(602);
    expect(results[300]!.error!.code).toBe("pem-invalid");
    expect(results[301]!.error!.code).toMatch(/^(csr|der)-invalid$/);
    const good = results.filter((result) => result.chain !== undefined);
    expect(good).toHaveLength(600);
    expect(seen.at(-1)).toBe(602);
    expect(good[0]!.chain!.match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
    expect(await operator.get(`/api/v1/lots/${lot}`)).toMatchObject({ counts: { built: 600, certified: 600 } });
    const page = await operator.get<{ devices: { deviceId: string; slot: number; state: string; chain: string }[] }>(
      `/api/v1/devices?lot=${lot}&afterSlot=590&limit=500`,
    );
    expect(page.devices.map((device) => device.slot)).toEqual([591, 592, 593, 594, 595, 596, 597, 598, 599, 600]);
    expect(page.devices[0]).toMatchObject({ state: "certified" });
    const one = page.devices[0]!;
    expect(await operator.get(`/api/v1/devices/${one.deviceId}`)).toMatchObject({ lot, chain: one.chain });
  });

  it("posts the same batch again and gets the first answer", async () => {
    const lot = await openLot(5);
    const [device] = testDevices(1);
    const manifest = await csrManifest(await stationKeyOf(station), "built", lot, [device!.csr]);
    const lines = [{ manifest: toBase64(manifest) }, { csr: pemOf(device!) }];
    const path = `/api/v1/lots/${lot}/batches`;
    const first = await station.postNdjson<{ batch: string }>(path, lines);
    expect(await station.postNdjson(path, lines)).toEqual(first);
    const answer = await station.get(`/api/v1/batches/${first.batch}?wait=20`);
    expect(answer).toMatchObject({ state: "done", results: [{ index: 0, deviceId: device!.id, slot: 1 }] });
  });

  it("waits at the station while the lot's queue is full", async () => {
    const lot = await openLot(5);
    const [device] = testDevices(1);
    await site.db.query(
      `INSERT INTO batch (id, lot, kind, manifest, manifest_sha256, key_id, count, items)
       SELECT $1 || n, $1, 'built', '', '', '', 1, '' FROM generate_series(1, $2::int) n`,
      [lot, WAITING],
    );
    const asked = performance.now();
    const built = all((await Station.at(station)).build(lot, [pemOf(device!)], { patienceMs: 100 }));
    await new Promise((wake) => setTimeout(wake, 1000));
    await site.db.query("DELETE FROM batch WHERE lot = $1 AND manifest = ''", [lot]);
    expect(await built).toEqual([{ deviceId: device!.id, slot: 1 }]);
    expect(performance.now() - asked).toBeGreaterThan(5000);
    // Not beyond the time that a batch may take.
    await site.db.query(
      `INSERT INTO batch (id, lot, kind, manifest, manifest_sha256, key_id, count, items)
       SELECT $1 || n, $1, 'built', '', '', '', 1, '' FROM generate_series(1, $2::int) n`,
      [lot, WAITING],
    );
    const late = all((await Station.at(station)).build(lot, [pemOf(testDevices(1)[0]!)], { timeoutMs: 4000 }));
    await expect(late).rejects.toMatchObject({ code: "queue-full" });
    await site.db.query("DELETE FROM batch WHERE lot = $1 AND manifest = ''", [lot]);
  });

  it("posted at once over several connections is one batch, with one answer for all", async () => {
    const lot = await openLot(20);
    const devices = testDevices(20);
    const clients = await Promise.all([0, 1].map(() => SiteClient.open(PARTY, { home, role: "station" })));
    const key = await stationKeyOf(station);
    for (const kind of ["built", "certify"] as const) {
      const csrs = devices.map((device) => device.csr);
      const manifest = toBase64(await csrManifest(key, kind, lot, csrs));
      const lines = [{ manifest }, ...devices.map((device) => ({ csr: pemOf(device) }))];
      const posted = await Promise.all(
        [...clients, ...clients].map((client) =>
          client.postNdjson<{ batch: string }>(`/api/v1/lots/${lot}/batches`, lines),
        ),
      );
      expect(new Set(posted.map(({ batch }) => batch)).size).toBe(1);
      const answers = await Promise.all(
        clients.map((client) =>
          client.poll<{ state: string; results: { error?: unknown; slot: number; chain?: string }[] }>(
            `/api/v1/batches/${posted[0]!.batch}?wait=20`,
            ({ state }) => state === "done",
          ),
        ),
      );
      expect(answers[1]).toEqual(answers[0]);
      expect(answers[0]!.results.map(({ error }) => error)).toEqual(devices.map(() => undefined));
      expect(new Set(answers[0]!.results.map(({ slot }) => slot)).size).toBe(20);
      if (kind === "certify") expect(new Set(answers[0]!.results.map(({ chain }) => chain)).size).toBe(20);
    }
    for (const client of clients) client.close();
  });

  it("is refused with a line's number for what isn't a batch", async () => {
    const lot = await openLot(5);
    const [device] = testDevices(1);
    const manifest = toBase64(await csrManifest(await stationKeyOf(station), "built", lot, [device!.csr]));
    const csr = { csr: pemOf(device!) };
    for (const [lines, code] of [
      [[], "input-invalid"],
      [[{ manifest }], "input-invalid"],
      [[{ manifest: "?" }, csr], "input-invalid"],
      [[{ manifest: toBase64(Uint8Array.of(1)) }, csr], "envelope-invalid"],
      [[{ manifest }, csr, csr], "input-invalid"],
      [[{ manifest }, { ...csr, more: 1 }], "input-invalid"],
      [[{ manifest }, { csr: 7 }], "input-invalid"],
      [[{ manifest }, ...Array.from({ length: 257 }, () => csr)], "input-too-large"],
    ] as const) {
      await expect(station.postNdjson(`/api/v1/lots/${lot}/batches`, lines)).rejects.toMatchObject({ code });
    }
    await expect(station.get("/api/v1/batches/none")).rejects.toMatchObject({ code: "not-found" });
  });
});

describe("injection and installation", () => {
  it("follow certification", async () => {
    const lot = await openLot(5);
    const devices = testDevices(5);
    const certified = await all(await Station.at(station).then((s) => s.sign(lot, devices.map(pemOf))));
    expect(certified.every((result) => result.chain !== undefined)).toBe(true);
    await operator.post(`/api/v1/lots/${lot}/injections`, { limit: 2 });
    const end = await operator.poll<{ state: string; done: number }>(
      `/api/v1/lots/${lot}/injections`,
      ({ state }) => state === "done",
    );
    expect(end).toMatchObject({ done: 2, failed: 0 });
    const deviceIds = devices.slice(0, 3).map((device) => device.id);
    const installed = await postInstallations(technician, { lot, deviceIds, place: "Hall B" });
    expect(installed.map((result) => result.deviceId)).toEqual(deviceIds);
    const { devices: views } = await operator.get<{
      devices: { state: string; receipt: unknown; imagePath: string }[];
    }>(`/api/v1/devices?lot=${lot}`);
    expect(views.map((view) => view.state)).toEqual(["installed", "installed", "installed", "certified", "certified"]);
    expect(JSON.parse(readFileSync(join(views[0]!.imagePath, "..", "receipt.json"), "utf8"))).toEqual(
      views[0]!.receipt,
    );
  });
});

describe("an image that isn't right", () => {
  it("keeps its device here: another device's, a damaged one, one that could not be made", async () => {
    const lot = await openLot(5);
    const devices = testDevices(5);
    await all(await Station.at(station).then((s) => s.sign(lot, devices.map(pemOf))));
    const [own, swapped, damaged, moved, failed] = devices.map(({ id }) => id) as [
      string,
      string,
      string,
      string,
      string,
    ];
    const run = `earlier-${lot}`;
    await site.db.query("INSERT INTO injection_run (id, lot, state) VALUES ($1, $2, 'done')", [run, lot]);
    await site.db.query("INSERT INTO injection (device, run, code, message) VALUES ($1, $2, $3, $4)", [
      failed,
      run,
      "image-region-too-small",
      "the region was too small",
    ]);
    const install = async (...deviceIds: string[]) =>
      (await postInstallations(technician, { lot, deviceIds, place: "Hall B" })).map(
        (result) => result.error?.code ?? "installed",
      );
    expect(await install(failed)).toEqual(["read-back-mismatch"]);

    await operator.post(`/api/v1/lots/${lot}/injections`, {});
    const end = await operator.poll<{ state: string; done: number }>(
      `/api/v1/lots/${lot}/injections`,
      ({ state }) => state === "done",
    );
    expect(end, "the failed one is tried again").toMatchObject({ done: 5, failed: 0 });
    const { devices: views } = await operator.get<{ devices: { deviceId: string; imagePath: string }[] }>(
      `/api/v1/devices?lot=${lot}`,
    );
    const imageOf = (device: string) => views.find(({ deviceId }) => deviceId === device)!.imagePath;
    copyFileSync(imageOf(own), imageOf(swapped));
    writeFileSync(imageOf(damaged), readFileSync(imageOf(damaged)).fill(0x20, 100, 120));
    rmSync(imageOf(moved));
    const results = await install(own, swapped, damaged, moved, failed);
    expect(results).toEqual(["installed", "read-back-mismatch", "read-back-mismatch", "installed", "installed"]);
  });
});

function countersign(args: readonly string[], input = ""): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = execFile(
      join(PROJECT_ROOT, "node_modules", ".bin", "node"),
      [join(PROJECT_ROOT, "apps", "cli", "main.ts"), ...args],
      { env: { ...process.env, COUNTERSIGN_HOME: home }, maxBuffer: 64 << 20 },
      (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    );
    child.stdin!.end(input);
  });
}

describe("countersign sign", () => {
  it("takes NDJSON, gives NDJSON in the same order, and exits 1 when any was refused", async () => {
    const lot = await openLot(20);
    const devices = testDevices(4);
    const lines = devices.map((device) => JSON.stringify({ csr: pemOf(device) }));
    const bad = [
      lines[0],
      "not json",
      JSON.stringify({ csr: pemOf(testDevice("elsewhere-1")) }),
      lines[1],
      JSON.stringify({ csr: "" }),
      lines[2],
    ];
    const first = await countersign(["sign", "--lot", lot, "--site", PARTY, "-"], `${bad.join("\n")}\n`);
    expect(first.code).toBe(1);
    const out = first.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as StationResult);
    expect(out.map((result) => result.deviceId ?? result.error!.code)).toEqual([
      devices[0]!.id,
      "input-invalid",
      "device-id-outside-namespace",
      devices[1]!.id,
      "pem-invalid",
      devices[2]!.id,
    ]);
    for (const result of out) expect(Object.keys(result)).toEqual(result.error ? ["error"] : ["deviceId", "chain"]);
    const second = await countersign(["sign", "--lot", lot, "--site", PARTY, "-"], `${lines.join("\n")}\n`);
    expect(second.code).toBe(0);
    expect(second.stdout.split("\n")[0]).toBe(first.stdout.split("\n")[0]);
    expect((await countersign(["sign", "--lot", "none", "--site", PARTY, "-"])).code).toBe(1);
    expect((await countersign(["sign", "--site", PARTY, "-"])).code).toBe(2);
  }, 60_000);

  it("takes files and folders, PEM and DER", async () => {
    const lot = await openLot(20);
    const [a, b] = testDevices(2);
    const dir = tempDir("csrs");
    writeFileSync(join(dir, "a.pem"), pemOf(a!));
    writeFileSync(join(dir, "b.der"), b!.csr);
    const out = join(dir, "chains");
    const { code } = await countersign(["sign", "--lot", lot, "--site", PARTY, "--out", out, dir]);
    expect(code).toBe(0);
    for (const device of [a!, b!]) expect(readFileSync(join(out, `${device.id}.pem`), "utf8")).toContain("BEGIN");
  }, 60_000);
});

describe("countersign lot", () => {
  it("injects and installs what is certified, and says what it couldn't", async () => {
    const lot = await openLot(20);
    const devices = testDevices(4);
    await all(await Station.at(station).then((s) => s.sign(lot, devices.map(pemOf))));
    const at = ["--site", PARTY];
    const first = await countersign(["lot", "inject", lot, ...at, "--limit", "1", "--json"]);
    expect({ ...first, stdout: JSON.parse(first.stdout) }).toMatchObject({ code: 0, stdout: { done: 1, failed: 0 } });
    expect(await countersign(["lot", "inject", lot, ...at])).toMatchObject({ code: 0, stdout: "3 images\n" });

    const one = devices[0]!.id;
    const place = ["--place", "Line 1, Hall B"];
    const some = ["--device", one, "--device", "dev-nowhere"];
    const partly = await countersign(["lot", "install", lot, ...at, ...place, ...some]);
    expect(partly).toMatchObject({ code: 1, stdout: `1 devices of ${lot} installed, 1 refused\n` });
    expect(partly.stderr).toContain("dev-nowhere: ");
    const rest = await countersign(["lot", "install", lot, ...at, ...place, "--json"]);
    expect(rest.code).toBe(0);
    expect(JSON.parse(rest.stdout)).toEqual({ lot, installed: 3, refused: [] });
    const { devices: views } = await operator.get<{ devices: { state: string }[] }>(`/api/v1/devices?lot=${lot}`);
    expect(views.map((view) => view.state)).toEqual(Array(4).fill("installed"));

    const none = await countersign(["lot", "install", lot, ...at, ...place]);
    expect(none).toMatchObject({ code: 1, stderr: expect.stringContaining("[state-conflict]") });
    expect((await countersign(["lot", "install", lot, ...at, "--place", " "])).code).toBe(2);
    expect((await countersign(["lot", "install", lot, ...at])).code).toBe(2);
    expect((await countersign(["lot", "inject", "none", ...at])).code).toBe(1);
  }, 60_000);
});

describe("countersign openings and erase", () => {
  it("show what was committed to, and erase it for good, once", async () => {
    const lot = await openLot(5);
    const [device, other] = testDevices(2) as [TestDevice, TestDevice];
    await all(await Station.at(station).then((s) => s.sign(lot, [device, other].map(pemOf))));
    const ids = [device.id, other.id, "dev-elsewhere"];
    await postInstallations(technician, { lot, deviceIds: ids, place: "Line 1, Hall B" });
    const at = ["--site", PARTY];
    const file = join(tempDir("openings"), "shown.json");
    const shown = await countersign(["openings", device.id, ...at, "--out", file]);
    expect(shown, shown.stderr).toMatchObject({ code: 0 });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const { openings } = JSON.parse(readFileSync(file, "utf8")) as { openings: { domain: string; value: unknown }[] };
    expect(openings.map(({ domain, value }) => [domain, value])).toEqual([
      ["place", "Line 1, Hall B"],
      ["time", expect.stringMatching(/^\d{4}-/)],
    ]);
    const path = `/api/v1/devices/${device.id}`;
    await expect(station.get(`${path}/openings`)).rejects.toMatchObject({ code: "unauthorized" });
    await expect(station.post(`${path}/erasures`, {})).rejects.toMatchObject({ code: "unauthorized" });
    await expect(operator.post(`${path}/erasures`, { fields: ["name"] })).rejects.toMatchObject({
      code: "input-invalid",
    });

    const acts = async () => (await site.db.query("SELECT retry_key, entry FROM ledger_act ORDER BY retry_key")).rows;
    const before = await acts();
    const first = await countersign(["erase", device.id, ...at, "--field", "place", "--json"]);
    expect(JSON.parse(first.stdout)).toMatchObject({ deviceId: device.id, erased: ["place"], left: ["time"] });
    const second = await countersign(["erase", device.id, ...at]);
    expect(second.stdout).toMatch(
      /^place of \S+: was erased before, .*\ntime of \S+: erased, \S+ by \S+ \([0-9a-f]{64}\)/,
    );
    expect(second.code).toBe(0);
    const third = await operator.post<{ erased: []; erasures: [] }>(`${path}/erasures`, {});
    expect(third).toMatchObject({ erased: [], left: [] });
    expect(third.erasures).toHaveLength(2);
    const gone = await countersign(["openings", device.id, ...at]);
    expect(gone).toMatchObject({ code: 1, stderr: expect.stringContaining("erased") });
    expect(await acts()).toEqual(before);
    const { rows } = await site.db.query("SELECT device FROM opening WHERE device = ANY($1)", [ids]);
    expect(rows.map((row: { device: string }) => row.device).sort()).toEqual(
      [other.id, other.id, "dev-elsewhere", "dev-elsewhere"].sort(),
    );

    expect(await countersign(["erase", "dev-unknown", ...at])).toMatchObject({ code: 1 });
    // What came for a device that isn't here is erased too.
    expect(await operator.post("/api/v1/devices/dev-elsewhere/erasures", {})).toMatchObject({
      erased: ["place", "time"],
    });
  }, 60_000);
});
