import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { randomUUID } from "node:crypto";
import { Client, Connection, type WorkflowClient } from "@temporalio/client";
import { historyFromJSON, historyToJSON } from "@temporalio/common/lib/proto-utils.js";
import { DefaultLogger, NativeConnection, Runtime, Worker } from "@temporalio/worker";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { custodyActivities } from "../activities/custody.ts";
import { firmwareActivities } from "../activities/firmware.ts";
import { issuingActivities } from "../activities/issuing.ts";
import { csrManifest, installManifest } from "../apps/cli/station-key.ts";
import { Dispatcher, startHandoff } from "../apps/gateway/dispatcher.ts";
import { messageHandlers } from "../apps/site/messages.ts";
import { workflowBundle } from "../apps/site/workflow-bundle.ts";
import { lotOpened, lotProgress, lotWorkflowIds, receiveHandoff, type ProductionLotInput } from "../contracts/lots.ts";
import { QUEUES } from "../contracts/queues.ts";
import { toBase64 } from "../lib/domain/bytes.ts";
import { bytesReader, firmwareFormat } from "../lib/firmware/index.ts";
import { parseCertificate, parseCertificatesPem } from "../lib/pki/certificate.ts";
import { keyId } from "../lib/pki/spki.ts";
import type { MessageType } from "../lib/records/message.ts";
import { parseEntry } from "../lib/records/statement.ts";
import { orderLot, orderReceipt } from "../services/custody/orders.ts";
import { claimRelease } from "../services/custody/release.ts";
import { startInjection } from "../services/custody/inject.ts";
import { submitCsrs, submitInstallations } from "../services/intake/submit.ts";
import { batchAnswers } from "../store/batches.ts";
import { inTransaction } from "../store/db.ts";
import { findDevice, listDevices } from "../store/devices.ts";
import { getHandoff } from "../store/handoffs.ts";
import { eraseOpenings, findErasures, findOpenings } from "../store/installations.ts";
import { findRun, latestRun } from "../store/injections.ts";
import { readEntries, readHead } from "../store/ledger.ts";
import { countLot, findLot } from "../store/lots.ts";
import { storeInbox } from "../store/messages.ts";
import { pinPeer } from "../store/parties.ts";
import { HISTORIES, saveHistory } from "../test/support/histories.ts";
import { findPkcs11Module, softhsmDir, tempDir, testTemporal } from "../test/support/index.ts";
import { pem, throwawayRoot } from "../test/support/issuing.ts";
import { opensslBatch } from "../test/support/judge.ts";
import { lotSite, testDevices, type LotSite, type TestDevice } from "../test/support/lot-site.ts";

interface Running {
  readonly site: LotSite;
  readonly workflows: WorkflowClient;
  readonly dispatcher: Dispatcher;
  readonly station: ReturnType<LotSite["client"]>;
  stop(): Promise<void>;
}

let y: Running;
let z: Running;
let bundle: string;

async function run(site: LotSite): Promise<Running> {
  const { address, namespace } = await testTemporal();
  const native = await NativeConnection.connect({ address });
  const worker = await Worker.create({
    connection: native,
    namespace,
    taskQueue: QUEUES.site,
    workflowBundle: { codePath: bundle },
    activities: {
      ...custodyActivities(site.custody),
      ...issuingActivities(site.issuing),
      ...firmwareActivities(site.custody),
    },
  });
  const running = worker.run();
  const connection = await Connection.connect({ address });
  const { workflow: workflows } = new Client({ connection, namespace });
  const dispatcher = new Dispatcher({ db: site.db, workflows, onFault: (error) => console.error(error) });
  return {
    site,
    workflows,
    dispatcher,
    station: site.client("station"),
    stop: async () => {
      dispatcher.close();
      worker.shutdown();
      await running;
      await native.close();
      await connection.close();
      await site.close();
    },
  };
}

beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger("ERROR") });
  softhsmDir();
  bundle = await workflowBundle();
  const root = throwawayRoot({ commonName: "Root" });
  const module = findPkcs11Module();
  y = await run(await lotSite({ party: "factory-y", root, module }));
  z = await run(await lotSite({ party: "technician-z", root, module }));
  await introduce(y.site, z.site, "child");
  await introduce(z.site, y.site, "parent");
}, 120_000);
afterAll(async () => {
  await z?.stop();
  await y?.stop();
});

async function introduce(at: LotSite, other: LotSite, direction: "parent" | "child"): Promise<void> {
  const contact = {
    party: other.party,
    gateway: "https://127.0.0.1:1",
    publicUrl: "http://127.0.0.1:1",
    tlsCa: "",
    act: toBase64(other.act.spki),
    origin: other.origin,
    vkey: "x+00000000+AQ==",
  };
  const actKeyId = keyId(other.act.spki);
  await inTransaction(at.db, (tx) =>
    pinPeer(tx, { party: other.party, direction, contact, actSpki: other.act.spki, actKeyId }),
  );
}

/** What the outbox and the other side's inbox do, without the wire; each message twice. */
async function deliver(from: Running, to: Running): Promise<void> {
  const { rows } = await from.site.db.query<{ id: string; type: MessageType; body: Uint8Array; ordinal: number }>(
    "UPDATE outbox SET state = 'delivered' WHERE receiver = $1 AND state = 'queued' RETURNING id, type, body, ordinal",
    [to.site.party],
  );
  const handlers = messageHandlers(to.site.party, to.workflows, to.site.custody);
  for (const { id, type, body, ordinal } of rows) {
    const message = { id, sender: from.site.party, epoch: 1, sequence: ordinal, type, inReplyTo: null };
    await inTransaction(to.site.db, (tx) =>
      storeInbox(tx, { ...message, envelope: new Uint8Array(1), envelopeSha256: "", body }),
    );
    await handlers[type]!(message);
    await handlers[type]!(message);
  }
}

const LAYOUTS = [
  { format: "esp-secure-cert", template: "esp-secure-cert.bin" },
  { format: "esp-secure-cert", template: "esp-secure-cert.bin", replace: true },
] as const;

async function openLot(
  at: Running,
  lot: string,
  slots: number,
  issuer: string,
  more: Partial<ProductionLotInput> = {},
) {
  const request = { id: lot, slots, issuer, profile: "ldevid" as const, layouts: [...LAYOUTS] };
  await orderLot(at.site.db, request);
  await at.workflows.start("productionLot", {
    workflowId: lotWorkflowIds.lot(lot),
    taskQueue: QUEUES.site,
    args: [{ lot, request, ...more }],
  });
  return at.workflows.getHandle(lotWorkflowIds.lot(lot)).executeUpdate(lotOpened);
}

async function post(at: Running, lot: string, kind: "built" | "certify", csrs: readonly Uint8Array[]): Promise<string> {
  const dsse = await csrManifest(at.station, kind, lot, csrs);
  const batch = await submitCsrs(at.site.intake, lot, dsse, csrs);
  at.dispatcher.announce(batch);
  return batch.id;
}

async function until<T>(what: string, look: () => Promise<T | undefined>, ms = 60_000): Promise<T> {
  for (const deadline = Date.now() + ms; ;) {
    const found = await look();
    if (found !== undefined) return found;
    if (Date.now() > deadline) throw new Error(`waited too long for ${what}`);
    await new Promise((wake) => setTimeout(wake, 25));
  }
}

const answersOf = (at: Running, batch: string) =>
  until(`batch ${batch}`, async () => {
    const { state, answers } = await batchAnswers(at.site.db, batch);
    return state === "done" ? answers : undefined;
  });

async function postAll(
  at: Running,
  lot: string,
  kind: "built" | "certify",
  devices: readonly TestDevice[],
  size = 256,
) {
  const batches: string[] = [];
  for (let i = 0; i < devices.length; i += size) {
    batches.push(
      await post(
        at,
        lot,
        kind,
        devices.slice(i, i + size).map((device) => device.csr),
      ),
    );
  }
  return (await Promise.all(batches.map((batch) => answersOf(at, batch)))).flat();
}

async function acts(at: Running) {
  const { size } = (await readHead(at.site.db))!;
  return (await readEntries(at.site.db, 0, size)).map((entry) => parseEntry(entry).act);
}

describe("productionLot", () => {
  it("opens a lot once, and says why it doesn't", async () => {
    expect(await openLot(y, "open-1", 5, "factory-y")).toEqual({ ok: true });
    expect(await findLot(y.site.db, "open-1")).toMatchObject({ builder: "factory-y", slots: 5, state: "open" });
    const second = y.workflows.start("productionLot", {
      workflowId: lotWorkflowIds.lot("open-1"),
      taskQueue: QUEUES.site,
      args: [{ lot: "open-1" }],
    });
    await expect(second).rejects.toThrow(/already started/i);

    const bad = { id: "open-2", slots: 5, issuer: "factory-y", profile: "ldevid" as const };
    for (const [layouts, code] of [
      [[{ format: "esp-secure-cert", template: "none.bin" }], "input-invalid"],
      [[{ format: "intel-hex", template: "esp-secure-cert.bin", offset: 0x3f000, length: 4096 }], "image-invalid"],
      [[], "input-invalid"],
    ] as const) {
      await orderLot(y.site.db, { ...bad, layouts: [...layouts] });
      await y.workflows.start("productionLot", {
        workflowId: lotWorkflowIds.lot("open-2"),
        taskQueue: QUEUES.site,
        args: [{ lot: "open-2", request: { ...bad, layouts } }],
      });
      const outcome = await y.workflows.getHandle(lotWorkflowIds.lot("open-2")).executeUpdate(lotOpened);
      expect(outcome).toMatchObject({ ok: false, error: { code } });
      await expect(y.workflows.getHandle(lotWorkflowIds.lot("open-2")).result()).rejects.toThrow();
    }
    expect(await findLot(y.site.db, "open-2")).toBeUndefined();
  });

  it("opens no lot that no operator ordered, whoever starts the workflow", async () => {
    const request = { id: "open-3", slots: 5, issuer: "factory-y", profile: "ldevid" as const, layouts: [...LAYOUTS] };
    const start = async (asked: typeof request) => {
      await y.workflows.start("productionLot", {
        workflowId: lotWorkflowIds.lot("open-3"),
        taskQueue: QUEUES.site,
        args: [{ lot: "open-3", request: asked }],
      });
      const handle = y.workflows.getHandle(lotWorkflowIds.lot("open-3"));
      const outcome = await handle.executeUpdate(lotOpened);
      await handle.result().catch(() => undefined);
      return outcome;
    };
    expect(await start(request)).toMatchObject({ ok: false, error: { code: "unauthorized" } });
    await orderLot(y.site.db, request);
    expect(await start({ ...request, slots: 5000 })).toMatchObject({ ok: false, error: { code: "unauthorized" } });
    expect(await findLot(y.site.db, "open-3")).toBeUndefined();
  });

  it("goes on over continue-as-new without losing or repeating a batch", async () => {
    const lot = "many-1";
    await openLot(y, lot, 200, "factory-y", { lanes: 3, batchesPerRun: 4 });
    const devices = testDevices(60);
    const built = await postAll(y, lot, "built", devices, 5);
    expect(built.map((b) => b.slot!).sort((a, b) => a - b)).toEqual(devices.map((_, i) => i + 1));
    const certified = await postAll(y, lot, "certify", devices, 5);
    expect(certified.every((c) => c.certificate !== null)).toBe(true);
    const handle = y.workflows.getHandle(lotWorkflowIds.lot(lot));
    await until("all batches", async () => ((await handle.query(lotProgress)).done === 24 ? true : undefined));
    const { runId } = await handle.describe();
    const first = await until("an earlier run", async () => {
      for await (const one of y.workflows.list({ query: `WorkflowId = 'lot/${lot}'` })) {
        if (one.runId !== runId && one.status.name === "CONTINUED_AS_NEW") return one;
      }
      return undefined;
    });
    expect(first.historyLength).toBeLessThan(100);
    const lines = (await acts(y)).filter((act) => "lot" in act.fields && act.fields.lot === lot);
    expect(lines.filter((act) => act.type === "certified")).toHaveLength(60);
    expect(lines.filter((act) => act.type === "intent")).toHaveLength(12);
    // "production-lot-run" is of the time before queues were bounded: a run that began then goes on.
    await saveHistory(y.workflows.getHandle(lotWorkflowIds.lot(lot), first.runId), "production-lot-bounded");
    const { events } = await y.workflows.getHandle(lotWorkflowIds.lot(lot), first.runId).fetchHistory();
    const groups = (events ?? []).flatMap(({ activityTaskScheduledEventAttributes: scheduled }) =>
      scheduled?.activityType?.name === "issueBatches" ? [Buffer.from(scheduled.input!.payloads![0]!.data!)] : [],
    );
    // Lanes that wake for what another takes ask for nothing.
    expect(groups.length).toBeGreaterThan(0);
    for (const group of groups) expect(group.toString()).not.toContain('"batches":[]');
  });

  it("finds batches whose announcement was lost", async () => {
    const lot = "lost-1";
    await openLot(y, lot, 5, "factory-y");
    const [device] = testDevices(1);
    const dsse = await csrManifest(y.station, "built", lot, [device!.csr]);
    const { id } = await submitCsrs(y.site.intake, lot, dsse, [device!.csr]);
    await y.site.db.query("UPDATE batch SET received = now() - interval '1 minute' WHERE id = $1", [id]);
    expect((await answersOf(y, id))[0]).toMatchObject({ slot: 1 });
  });
});

describe("custody", () => {
  const lot = "cust-1";
  const devices = testDevices(40);
  let kept: TestDevice[];

  it("goes from the builder to the issuer by two signatures, and back never", async () => {
    await openLot(y, lot, 100, "technician-z");
    await postAll(y, lot, "built", devices);
    const id = `${lot}.h1`;
    await claimRelease(y.site.custody, { id, lot, to: "technician-z" });
    // Claimed is gone, before any signature: nothing is certified, released or posted for these again.
    await expect(claimRelease(y.site.custody, { id: `${lot}.h2`, lot, to: "technician-z" })).rejects.toMatchObject({
      code: "state-conflict",
    });
    await startHandoff(y.workflows, id, "out");
    await until("the release", async () => ((await getHandoff(y.site.db, id)).state === "released" ? true : undefined));
    await deliver(y, z);
    await until("the offer", async () => ((await getHandoff(z.site.db, id)).state === "open" ? true : undefined));
    expect(await findLot(z.site.db, lot)).toMatchObject({ builder: "factory-y", issuer: "technician-z", slots: 100 });

    const early = await post(z, lot, "certify", [devices[0]!.csr]);
    expect((await answersOf(z, early))[0]).toMatchObject({ code: "device-not-in-lot" });

    const missing = devices[7]!;
    const discrepancies = [`${missing.id}: not in the box`, "box 3 is wet"];
    const handle = z.workflows.getHandle(lotWorkflowIds.handoff(id));
    // Who reaches Temporal alone gets no receipt signed, neither unasked nor another one than the operator's.
    expect(await handle.executeUpdate(receiveHandoff)).toMatchObject({ ok: false, error: { code: "unauthorized" } });
    expect(await getHandoff(z.site.db, id)).toMatchObject({ state: "open", discrepancies: null, receiptLeaf: null });
    await orderReceipt(z.site.db, id, discrepancies);
    expect(await handle.executeUpdate(receiveHandoff)).toEqual({ ok: true });
    // Nor does it read what the operator wrote.
    const texts = JSON.stringify(historyToJSON(await handle.fetchHistory())).replaceAll(
      /[A-Za-z0-9+/]{16,}={0,2}/g,
      (data) => Buffer.from(data, "base64").toString(),
    );
    expect(texts).toContain(id);
    expect(texts).not.toMatch(/not in the box|is wet/);
    kept = devices.filter((device) => device !== missing);
    expect(await countLot(z.site.db, lot)).toMatchObject({ received: 39, built: 0 });
    await deliver(z, y);
    await until("the receipt", async () => ((await getHandoff(y.site.db, id)).state === "closed" ? true : undefined));
    expect(await getHandoff(y.site.db, id)).toMatchObject({
      discrepancies: [`${missing.id}: not in the box`, "box 3 is wet"],
    });
    expect(await countLot(y.site.db, lot)).toMatchObject({ built: 40, released: 40 });
    await saveHistory(y.workflows.getHandle(lotWorkflowIds.handoff(id)), "handoff-giver");
    await saveHistory(z.workflows.getHandle(lotWorkflowIds.handoff(id)), "handoff-taker");
  });

  it("lets only the holder certify, each act naming the list it came by", async () => {
    const answers = await postAll(z, lot, "certify", devices);
    expect(answers.filter((a) => a.code !== null)).toMatchObject([
      { deviceId: devices[7]!.id, code: "device-not-in-lot" },
    ]);
    const certified = (await acts(z)).filter((act) => act.type === "certified");
    expect(certified).toHaveLength(39);
    const received = (await acts(z)).find((act) => act.type === "handoff-received")!;
    for (const act of certified) {
      expect(act.prev).toHaveLength(1);
      expect(act.prev[0]!.path!.length).toBeGreaterThanOrEqual(4);
      expect(act.prev[0]!.origin).toBe(received.origin);
    }
    const dsse = await csrManifest(y.station, "certify", lot, [devices[0]!.csr]);
    await expect(submitCsrs(y.site.intake, lot, dsse, [devices[0]!.csr])).rejects.toMatchObject({
      code: "custody-conflict",
    });
  });

  it("injects the first K certified devices, slot by slot in turns, and keeps receipts", async () => {
    const run = `${lot}.i1`;
    await startInjection(z.site.custody, { id: run, lot, limit: 10 });
    await z.workflows.execute("injection", {
      workflowId: lotWorkflowIds.injection(run),
      taskQueue: QUEUES.site,
      args: [{ run }],
    });
    expect(await latestRun(z.site.db, lot)).toMatchObject({ state: "done", done: 10, failed: 0 });
    const views = await listDevices(z.site.db, lot, { afterSlot: 0, limit: 100 });
    const injected = views.filter((view) => view.receipt !== null);
    expect(injected.map((view) => view.slot)).toEqual(views.slice(0, 10).map((view) => view.slot));
    for (const view of injected) {
      const image = await readFile(view.imagePath!);
      const { chainBytes } = await firmwareFormat("esp-secure-cert").extract(bytesReader(image));
      const chain = parseCertificatesPem(Buffer.from(chainBytes).toString().replaceAll("\0", ""));
      expect(chain.map((c) => c.subject.cn)).toEqual([view.id, "technician-z CA"]);
    }
    const lines = (await acts(z)).filter((act) => act.type === "injected");
    expect(new Set(lines.map((act) => act.fields.layoutSha256)).size).toBe(2);
    expect(lines.every((act) => act.grant !== undefined)).toBe(true);
    await saveHistory(z.workflows.getHandle(lotWorkflowIds.injection(run)), "injection");
  });

  it("finds an injection whose start was lost", async () => {
    const run = `${lot}.lost`;
    await startInjection(z.site.custody, { id: run, lot, limit: 0 });
    await z.site.db.query("UPDATE injection_run SET started = now() - interval '1 minute' WHERE id = $1", [run]);
    await until("the run", async () => ((await findRun(z.site.db, run))?.state === "done" ? true : undefined));
  });

  it("records installations behind commitments that can be erased", async () => {
    const technician = z.site.client("technician");
    const three = [kept[0]!, kept[20]!, devices[7]!];
    const time = new Date().toISOString();
    const { manifest, items } = await installManifest(
      technician,
      lot,
      three.map((device) => ({ deviceId: device.id, place: { hall: "B" }, time })),
    );
    const batch = await submitInstallations(z.site.intake, lot, manifest, items);
    z.dispatcher.announce(batch);
    const answers = await answersOf(z, batch.id);
    expect(answers.map((a) => a.code)).toEqual([null, null, "device-not-in-lot"]);
    const id = kept[0]!.id;
    expect((await findDevice(z.site.db, id))!.stage).toBe("installed");
    expect((await findOpenings(z.site.db, id)).map((o) => o.value)).toEqual([{ hall: "B" }, time]);
    const before = await acts(z);
    const installed = before.filter((act) => act.type === "installed");
    expect(installed.map((act) => act.grant)).toEqual(installed.map(() => before[0]!.grant));
    expect(await eraseOpenings(z.site.db, id, "operator", ["place"])).toEqual(["place"]);
    expect((await findOpenings(z.site.db, id)).map((o) => o.value)).toEqual([time]);
    expect(await eraseOpenings(z.site.db, id, "operator")).toEqual(["time"]);
    expect(await findOpenings(z.site.db, id)).toEqual([]);
    const [first] = await findErasures(z.site.db, id);
    expect(await eraseOpenings(z.site.db, id, "somebody else")).toEqual([]);
    expect((await findErasures(z.site.db, id)).map(({ domain, by }) => [domain, by])).toEqual([
      ["place", "operator"],
      ["time", "operator"],
    ]);
    expect((await findErasures(z.site.db, id))[0]).toEqual(first);
    expect(await acts(z)).toEqual(before);
    const { rows } = await z.site.db.query("SELECT encode(items, 'escape') AS item FROM batch WHERE id = $1", [
      batch.id,
    ]);
    expect(rows[0].item).not.toContain("hall");

    const again = await installManifest(technician, lot, [{ deviceId: id, place: "elsewhere", time }]);
    const second = await submitInstallations(z.site.intake, lot, again.manifest, again.items);
    z.dispatcher.announce(second);
    expect((await answersOf(z, second.id))[0]).toMatchObject({ code: "already-exists" });
    // What came with a refused item is somebody's value too.
    expect(await eraseOpenings(z.site.db, id, "operator")).toEqual(["place", "time"]);
    await saveHistory(z.workflows.getHandle(lotWorkflowIds.installation(batch.id)), "installation");
  });

  it("refuses an offer whose list isn't the signed one, and keeps the reason", async () => {
    const other = "cust-2";
    await openLot(y, other, 10, "technician-z");
    await postAll(y, other, "built", testDevices(3));
    const id = `${other}.h1`;
    await claimRelease(y.site.custody, { id, lot: other, to: "technician-z" });
    await startHandoff(y.workflows, id, "out");
    await until("the release", async () => ((await getHandoff(y.site.db, id)).state === "released" ? true : undefined));
    const { rows } = await y.site.db.query<{ body: Uint8Array }>("SELECT body FROM outbox WHERE state = 'queued'");
    const body = JSON.parse(Buffer.from(rows[0]!.body).toString());
    body.items[1].deviceId = "dev-forged";
    await y.site.db.query("UPDATE outbox SET body = $1 WHERE state = 'queued'", [JSON.stringify(body)]);
    await deliver(y, z);
    const refused = await until("the refusal", async () => {
      const handoff = await getHandoff(z.site.db, id);
      return handoff.state === "refused" ? handoff : undefined;
    });
    expect(refused).toMatchObject({ errorCode: "handoff-mismatch" });
    expect(await findLot(z.site.db, other)).toBeUndefined();
  });
});

describe("10,000 devices", () => {
  it("change hands in one handoff", async () => {
    const lot = "wide-1";
    await openLot(y, lot, 10_000, "technician-z");
    const { ref } = (await findLot(y.site.db, lot))!;
    await y.site.db.query(
      `INSERT INTO device (id, spki_sha256, lot, slot, csr_sha256, stage, built, prev)
       SELECT 'dev-wide-' || n, encode(sha256(('k' || n)::bytea), 'hex'), $1, n, encode(sha256(('c' || n)::bytea), 'hex'),
         'built', true, $2 FROM generate_series(1, 10000) AS n`,
      [lot, JSON.stringify(ref)],
    );
    const id = `${lot}.h1`;
    await claimRelease(y.site.custody, { id, lot, to: "technician-z" });
    await startHandoff(y.workflows, id, "out");
    await until("the release", async () => ((await getHandoff(y.site.db, id)).state === "released" ? true : undefined));
    await deliver(y, z);
    await until("the offer", async () => ((await getHandoff(z.site.db, id)).state === "open" ? true : undefined));
    const handle = z.workflows.getHandle(lotWorkflowIds.handoff(id));
    await orderReceipt(z.site.db, id, []);
    expect(await handle.executeUpdate(receiveHandoff)).toEqual({ ok: true });
    expect(await countLot(z.site.db, lot)).toMatchObject({ received: 10_000 });
    const [first] = await listDevices(z.site.db, lot, { afterSlot: 0, limit: 1 });
    expect(first!.prev.path).toHaveLength(14);
    // Histories carry the handoff's id, never its list.
    expect(JSON.stringify((await handle.fetchHistory()).events).length).toBeLessThan(50_000);
  }, 60_000);
});

describe("2,000 devices", () => {
  it("go through one lot's workflow, with a chain each that openssl verifies", async () => {
    const lot = "big-1";
    await openLot(y, lot, 2_000, "factory-y");
    const devices = testDevices(2_000);
    const cpu = process.cpuUsage();
    let began = performance.now();
    const built = await postAll(y, lot, "built", devices);
    const builtSeconds = (performance.now() - began) / 1000;
    const builtCpu = process.cpuUsage(cpu);
    const cpu2 = process.cpuUsage();
    began = performance.now();
    const certified = await postAll(y, lot, "certify", devices);
    const seconds = (performance.now() - began) / 1000;
    const used = process.cpuUsage(cpu2);
    const per = (u: NodeJS.CpuUsage): string => `${((u.user + u.system) / 2000).toFixed(0)} us CPU a device`;
    console.log(
      `built ${(2000 / builtSeconds).toFixed(0)}/s, ${per(builtCpu)}; certified ${(2000 / seconds).toFixed(0)}/s, ${per(used)}`,
    );
    expect(new Set(built.map((b) => b.slot)).size).toBe(2_000);
    const serials = new Set(certified.map((c) => parseCertificate(c.certificate!).serial));
    expect(serials.size).toBe(2_000);
    expect(certified.map((c) => c.deviceId)).toEqual(devices.map((device) => device.id));

    const dir = tempDir("chains");
    writeFileSync(join(dir, "root.pem"), pem(y.site.root.certificate));
    writeFileSync(join(dir, "ca.pem"), pem(y.site.ca));
    const sample = certified.filter((_, i) => i % 50 === 0);
    sample.forEach((c, i) => writeFileSync(join(dir, `${i}.pem`), pem(c.certificate!)));
    const verify = ["verify", "-x509_strict", "-CAfile", join(dir, "root.pem"), "-untrusted", join(dir, "ca.pem")];
    const verdicts = await opensslBatch(sample.map((_, i) => [...verify, join(dir, `${i}.pem`)]));
    expect(verdicts.filter((verdict) => !verdict.ok)).toEqual([]);
    expect(await countLot(y.site.db, lot)).toMatchObject({ built: 2000, certified: 2000 });

    const handle = y.workflows.getHandle(lotWorkflowIds.lot(lot));
    const { events } = await handle.fetchHistory();
    const bytes = JSON.stringify(events).length;
    // By reference: batch ids, never CSRs or certificates.
    expect(bytes / 2_000).toBeLessThan(100);
  }, 120_000);
});

describe("saved histories", () => {
  it("replay with today's workflows", async () => {
    const names = readdirSync(HISTORIES).filter((name) => name.endsWith(".json"));
    expect(names.length).toBeGreaterThanOrEqual(5);
    async function* histories() {
      for (const name of names) {
        yield {
          workflowId: `replay-${name}-${randomUUID()}`,
          history: historyFromJSON(JSON.parse(readFileSync(join(HISTORIES, name), "utf8"))),
        };
      }
    }
    for await (const { error, workflowId } of Worker.runReplayHistories(
      { workflowBundle: { codePath: bundle } },
      histories(),
    )) {
      expect(error, workflowId).toBeUndefined();
    }
  });
});
