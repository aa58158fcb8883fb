import { randomUUID } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { csrManifest, installManifest } from "../../apps/cli/station-key.ts";
import { backUp, restoreBackup } from "../../apps/site/stack/backup.ts";
import { loginUrl, startPostgres, type Postgres } from "../../apps/site/stack/postgres.ts";
import { nodeVerify, type Token } from "../../hsm/index.ts";
import { toBase64, toHex } from "../../lib/domain/bytes.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { auditLog } from "../../lib/ledger/audit-log.ts";
import { ed25519Raw, KEY_TYPE, noteKey, type NoteKey } from "../../lib/ledger/note.ts";
import { formatPolicy, parsePolicy } from "../../lib/ledger/policy.ts";
import { parseCrl } from "../../lib/pki/crl.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { MessageType } from "../../lib/records/message.ts";
import { connect, inTransaction, type Db } from "../../store/db.ts";
import { readCheckpoint, readEntries, readHead } from "../../store/ledger.ts";
import { storeInbox } from "../../store/messages.ts";
import { pinPeer } from "../../store/parties.ts";
import { softhsmDir, tempDir } from "../../test/support/index.ts";
import { throwawayRoot } from "../../test/support/issuing.ts";
import { lotSite, ownLot, testDevices, type LotSite, type TestDevice } from "../../test/support/lot-site.ts";
import { testKey } from "../../test/support/memory-log.ts";
import type { CustodyContext } from "../custody/context.ts";
import { injectNext, startInjection } from "../custody/inject.ts";
import { recordInstallations } from "../custody/install.ts";
import { applyMessage } from "../custody/messages.ts";
import { acceptOffer, decideReceipt, recordReceipt } from "../custody/receive.ts";
import { claimRelease, recordRelease } from "../custody/release.ts";
import { submitCsrs, submitInstallations } from "../intake/submit.ts";
import { recordBuilt } from "../issuing/built.ts";
import { issueBatch } from "../issuing/certify.ts";
import type { IssuingContext } from "../issuing/context.ts";
import { LedgerCopy } from "../ledger/copy.ts";
import { journaledSource } from "../ledger/copy-source.ts";
import { folderSource } from "../ledger/export.ts";
import { actKey, Acts, nodeSha256, Sequencer } from "../ledger/index.ts";
import { databaseSource } from "../ledger/serve.ts";
import { keepCrl } from "../parties/crl.ts";
import { orderRevocation, recordRevocations } from "../parties/revoke.ts";
import { witnessedPath } from "../witness/heads.ts";
import { rebuildLedger, type RebuildOptions } from "./rebuild.ts";
import { ledgerSightings } from "./sightings.ts";

/**
 * The technician's site on a Postgres of its own: a lot, a physical backup, more lots, and then the database as the
 * backup has it.
 */
const places = tempDir("recovery");
const cluster = {
  dataDir: join(places, "postgres"),
  adminPasswordFile: join(places, "admin.password"),
  logFile: join(places, "postgres.log"),
  settings: { shared_buffers: "16MB" },
};
const copyFolder = join(places, "copy");

let y: LotSite;
let z: LotSite;
let postgres: Postgres;
let databaseUrl: string;
let log: NoteKey;
/** of the tables and the last note, before the disaster */
let before: { tables: Record<string, unknown[]>; note: Uint8Array; size: number };
let token: Token;
let signers: { act: Signer; log: Signer };
let db: Db;

beforeAll(async () => {
  const { module } = softhsmDir();
  const root = throwawayRoot({ commonName: "Root" });
  postgres = await startPostgres(cluster);
  const login = await postgres.ensureDatabase({ name: "technician_z", passwordFile: join(places, "db.password") });
  databaseUrl = loginUrl(login);
  y = await lotSite({ party: "factory-y", root, module });
  const copy = { current: undefined as LedgerCopy | undefined };
  z = await lotSite({
    party: "technician-z",
    root,
    module,
    databaseUrl,
    sequencer: (own) => {
      copy.current = new LedgerCopy({ db: own, folder: copyFolder });
      return { keep: (checkpoint) => copy.current!.keep(checkpoint) };
    },
  });
  log = noteKey(z.origin, KEY_TYPE.ed25519, ed25519Raw(z.log.spki));
  await know(y, z, "child");
  await know(z, y, "parent");

  const first = testDevices(3);
  await wholeLot("L1", first);
  await revoke(first[0]!, "hold");
  // Built and offered before, certified after.
  const early = testDevices(2);
  await received("L2", early);
  await backUp({ adminUrl: postgres.adminUrl, dataDir: cluster.dataDir, to: join(places, "backup") });
  await certify(z.custody, z.issuing, "L2", early);
  await wholeLot("L3", testDevices(4));
  await revoke(first[0]!, "final");
  await revoke(first[1]!, "hold");
  await revoke(first[1]!, "lift");
  await revoke(first[2]!, "final");
  await ownLot(z, "L4", 5, y.party, { days: 90 });
  await build(z, "L4", testDevices(3));
  await claimRelease(z.custody, { id: "L4.h1", lot: "L4", to: y.party });
  await recordRelease(z.custody, "L4.h1");

  const release = await z.acts.find("handoff/L4.h1", "released");
  await z.acts.waitIncluded([release!.retryKey], { timeoutMs: 10_000 });
  before = await state(z.db);
  token = await z.anotherSession();
  await z.close();
  await postgres.stop();
  await restoreBackup({ from: join(places, "backup"), dataDir: cluster.dataDir });
  postgres = await startPostgres({ ...cluster, port: postgres.port });
  db = connect(databaseUrl, { max: 10 });
  signers = { act: await token.signer("act"), log: await token.signer("log") };
}, 120_000);
afterAll(async () => {
  await db?.end();
  await token?.close();
  await y?.close();
  await postgres?.stop();
});

async function know(at: LotSite, { party, origin, act }: LotSite, direction: "parent" | "child"): Promise<void> {
  const [gateway, publicUrl] = ["https://127.0.0.1:1", "http://127.0.0.1:1"];
  const contact = { party, gateway, publicUrl, tlsCa: "", act: toBase64(act.spki), origin, vkey: "x+00000000+AQ==" };
  await inTransaction(at.db, (tx) =>
    pinPeer(tx, { party, direction, contact, actSpki: act.spki, actKeyId: keyId(act.spki) }),
  );
}

async function build(at: LotSite, lot: string, devices: readonly TestDevice[]): Promise<void> {
  const csrs = devices.map((device) => device.csr);
  const batch = await submitCsrs(at.intake, lot, await csrManifest(at.client("station"), "built", lot, csrs), csrs);
  await recordBuilt(at.issuing, batch.id);
}

async function received(lot: string, devices: readonly TestDevice[], custody = z.custody): Promise<void> {
  await ownLot(y, lot, 10, z.party);
  await build(y, lot, devices);
  const id = `${lot}.h1`;
  await claimRelease(y.custody, { id, lot, to: z.party });
  await recordRelease(y.custody, id);
  const { rows } = await y.db.query<{ id: string; type: MessageType; body: Uint8Array; ordinal: number }>(
    "UPDATE outbox SET state = 'delivered' WHERE state = 'queued' RETURNING id, type, body, ordinal",
  );
  const { ordinal, ...sent } = rows[0]!;
  const message = { ...sent, sender: y.party, epoch: 1, sequence: ordinal, inReplyTo: null };
  await inTransaction(custody.db, (tx) =>
    storeInbox(tx, { ...message, envelope: new Uint8Array(1), envelopeSha256: randomUUID() }),
  );
  await applyMessage(custody, sent.id);
  expect(await acceptOffer(custody, id)).toBe("open");
  const lost = devices.length > 3 ? [`${devices[3]!.id}: not in the box`] : [];
  await decideReceipt(custody, id, lost);
  await recordReceipt(custody, id);
}

async function certify(
  custody: CustodyContext,
  issuing: IssuingContext,
  lot: string,
  devices: readonly TestDevice[],
): Promise<void> {
  const csrs = devices.map((device) => device.csr);
  const manifest = await csrManifest(z.client("station"), "certify", lot, csrs);
  const batch = await submitCsrs({ ...z.intake, db: custody.db }, lot, manifest, csrs);
  await issueBatch(issuing, batch.id);
}

/** From the factory's hands to the wall; of four devices one isn't in the box. */
async function wholeLot(lot: string, devices: readonly TestDevice[], custody = z.custody, issuing = z.issuing) {
  await received(lot, devices, custody);
  const [first, ...more] = devices.slice(0, 3);
  await certify(custody, issuing, lot, [first!, ...more]);
  await startInjection(custody, { id: `${lot}/run`, lot, limit: 2 });
  while ((await injectNext(custody, `${lot}/run`)).state !== "done");
  const done = [{ deviceId: first!.id, place: "Hall 3", time: "2026-07-01T10:00:00.000Z" }];
  const { manifest, items } = await installManifest(z.client("technician"), lot, done);
  const batch = await submitInstallations({ ...z.intake, db: custody.db }, lot, manifest, items);
  await recordInstallations(custody, batch.id);
}

async function revoke({ id }: TestDevice, effect: "final" | "hold" | "lift"): Promise<void> {
  const { db: own, acts, act: actSigner } = z;
  expect(await orderRevocation(own, { id }, { effect, reason: "superseded", by: "operator" })).toMatchObject({
    state: "ordered",
  });
  await recordRevocations({ db: own, acts, actSigner });
}

/** What the site knows, but for what no ledger holds: requests, openings, batches, the envelopes' own state. */
async function state(at: Db): Promise<typeof before> {
  const tables: Record<string, unknown[]> = {};
  const ask = async (name: string, text: string) => {
    tables[name] = (await at.query(text)).rows;
  };
  await ask(
    "lot",
    "SELECT id, state, builder, issuer, slots, profile, profile_sha256, layouts, settings, leaf_hash FROM lot ORDER BY id",
  );
  await ask("slots", "SELECT * FROM lot_slots ORDER BY lot");
  await ask(
    "device",
    "SELECT id, spki_sha256, lot, slot, csr_sha256, stage, held, handoff, built, prev FROM device ORDER BY id",
  );
  await ask(
    "issuance",
    `SELECT device, profile, lot, csr_sha256, issuer_key_id, serial, tbs, intent_leaf, intent_index, intent_path,
       intake_digest, intake_index, intake_path, grant_origin, grant_leaf, certificate, certified_key, certified_leaf
     FROM released_issuance ORDER BY device`,
  );
  await ask(
    "handoff",
    `SELECT id, direction, lot, peer, CASE state WHEN 'released' THEN 'releasing' ELSE state END AS state, count, list_root,
       list, terms, discrepancies, time, receipt_act, receipt_leaf FROM handoff ORDER BY id`,
  );
  await ask("injection", "SELECT device, receipt, image_path, leaf_hash FROM injection ORDER BY device");
  await ask("installation", "SELECT device, technician, place, time, leaf_hash FROM installation ORDER BY device");
  await ask(
    "revocation",
    `SELECT certificate_leaf, step, target, subject, subject_key_id, certificate, issuer_key_id, serial, effect, reason,
       invalidity, act_leaf, time FROM revocation ORDER BY certificate_leaf, step`,
  );
  await ask("grant", "SELECT used, quota FROM grant_received");
  await ask("act", "SELECT encode(retry_key, 'hex') AS key, type, entry, statement, prev FROM ledger_act ORDER BY 1");
  await ask("leaf", "SELECT * FROM ledger_leaf ORDER BY leaf_index");
  await ask("tile", "SELECT * FROM ledger_tile ORDER BY level, tile_index");
  await ask("blob", "SELECT sha256, bytes FROM ledger_blob ORDER BY sha256");
  await ask("head", "SELECT * FROM ledger_head");
  const { note, size } = (await readCheckpoint(at))!;
  return { tables, note, size };
}

const options = (more: Partial<RebuildOptions> = {}): RebuildOptions => ({
  db,
  party: z.party,
  log,
  verify: nodeVerify,
  actSigner: signers.act,
  source: journaledSource(copyFolder, folderSource(copyFolder)),
  imagesDir: z.custody.imagesDir,
  ...more,
});

/** Signs nothing: gives the error that stops it. */
async function refusal(seen: NonNullable<ConstructorParameters<typeof Sequencer>[0]["seen"]>): Promise<unknown> {
  let signed = 0;
  const refused = await new Promise<unknown>((resolve) => {
    const sequencer = new Sequencer({
      db,
      origin: z.origin,
      signer: { ...signers.log, sign: (message) => (signed++, signers.log.sign(message)) },
      actKeys: () => [actKey(signers.act.spki, signers.act.algorithm)],
      verify: nodeVerify,
      seen,
      onError: (error) => void sequencer.stop().then(() => resolve(error)),
    });
    sequencer.start();
  });
  expect(signed).toBe(0);
  return refused;
}

describe("a database that was restored from a backup", () => {
  const sightings = (policyUrl?: string, copy = true) => {
    const witness = noteKey("w.example/witness", KEY_TYPE.cosignature, ed25519Raw(testKey("ed25519").spki));
    const text = policyUrl && formatPolicy(log, [witness], "any", new Map([[witness, policyUrl]]));
    return (head: { size: number }) =>
      ledgerSightings(
        {
          log,
          spki: signers.log.spki,
          verify: nodeVerify,
          copy: copy ? new LedgerCopy({ db, folder: copyFolder }) : undefined,
          policy: text === undefined ? undefined : async () => parsePolicy(text),
        },
        head,
      );
  };

  it("is behind what was published", async () => {
    const { size } = (await readHead(db))!;
    expect(size).toBeGreaterThan(0);
    expect(size).toBeLessThan(before.size);
  });

  it("is signed no further while the copy holds more, and says so", async () => {
    const error = await refusal(sightings());
    expect(error).toMatchObject({ code: "ledger-behind", details: { seen: before.size } });
    expect((error as Error).message).toContain("countersign ledger rebuild");
  });

  it("is signed no further while a witness has seen more, and nor while none answers and there is no copy", async () => {
    let answer: { status: number; body: Uint8Array } = { status: 200, body: before.note };
    let endless = 0;
    const asked: string[] = [];
    const server: Server = createServer((request, response) => {
      asked.push(request.url ?? "");
      if (answer.status === 0) {
        const more = (): void => {
          while (!response.destroyed && response.write(answer.body)) endless += answer.body.length;
          endless += answer.body.length;
        };
        response.writeHead(200).on("drain", more);
        return more();
      }
      response.writeHead(answer.status).end(answer.body);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/witness`;
    try {
      expect(await refusal(sightings(url, false))).toMatchObject({ code: "ledger-behind" });
      expect(asked[0]).toBe(`/witness/${witnessedPath(z.origin)}`);
      answer = { status: 503, body: new Uint8Array() };
      expect(await refusal(sightings(url, false))).toMatchObject({ code: "witnesses-missing" });
      // A witness can't make anything up: what this log's key didn't sign counts as no answer.
      answer = {
        status: 200,
        body: Buffer.from(
          Buffer.from(before.note)
            .toString()
            .replace(/\n\d+\n/, "\n999999\n"),
        ),
      };
      expect(await refusal(sightings(url, false))).toMatchObject({ code: "witnesses-missing" });
      answer = { status: 0, body: Buffer.alloc(65_536, "x") };
      const began = performance.now();
      await expect(sightings(url, false)({ size: 5 })).rejects.toMatchObject({ code: "witnesses-missing" });
      // Left at once, and not when its time is up.
      expect(performance.now() - began).toBeLessThan(2500);
      expect(endless).toBeLessThan(64 << 20);
      answer = { status: 404, body: new Uint8Array() };
      expect(await sightings(url, false)({ size: 5 })).toEqual([]);
    } finally {
      server.close();
      server.closeAllConnections();
    }
  });

  it("is rebuilt from nothing but this log, whole and unchanged", async () => {
    const fetch = journaledSource(copyFolder, folderSource(copyFolder));
    const spoiled = (path: RegExp) => async (asked: string) => {
      const bytes = await fetch(asked);
      if (!path.test(asked) || bytes === undefined) return bytes;
      const changed = Uint8Array.from(bytes);
      changed[changed.length - 20]! ^= 1;
      return changed;
    };
    for (const path of [/^checkpoint/, /^tile\/0/, /^tile\/entries/]) {
      await expect(rebuildLedger(options({ source: spoiled(path) }))).rejects.toMatchObject({
        kind: expect.stringMatching(/unverified|invalid/),
      });
    }
    await expect(rebuildLedger(options({ source: spoiled(/^blobs/) }))).rejects.toMatchObject({ code: "not-found" });
    expect((await readHead(db))!.size).toBeLessThan(before.size);
    const { rowCount } = await db.query("SELECT 1 FROM ledger_act WHERE type = 'recovered'");
    expect(rowCount).toBe(0);
  });

  it("knows everything again that the ledger holds", async () => {
    const { size: restored } = (await readHead(db))!;
    const rebuilt = await rebuildLedger(options());
    expect(rebuilt).toMatchObject({ restored, size: before.size, left: [] });
    const { tables, note } = await state(db);
    const recovered = tables["act"]!.filter((row) => (row as { type: string }).type === "recovered");
    expect(recovered).toHaveLength(1);
    tables["act"] = tables["act"]!.filter((row) => (row as { type: string }).type !== "recovered");
    for (const name of Object.keys(tables)) expect(tables[name], name).toEqual(before.tables[name]);
    expect(toHex(note)).toBe(toHex(before.note));
    // No CRL since the backup is known any more: the next one lists what the ledger says.
    const revoked = parseCrl((await keepCrl(db, await token.caKey("ca"), z.ca, { now: new Date() })).der).revoked;
    expect([...revoked.values()].map(({ reason }) => reason)).toEqual(["superseded", "superseded"]);
    // Its peers hear of it, under numbers of a new epoch, and what it owes them goes out again.
    const { rows } = await db.query(
      "SELECT type, count(*)::int AS n FROM outbox WHERE state = 'queued' GROUP BY 1 ORDER BY 1",
    );
    expect(rows).toEqual([
      { type: "handoff-receipt", n: expect.any(Number) },
      { type: "recovered", n: 1 },
    ]);
    expect((await db.query("SELECT out_epoch, out_sequence FROM peer")).rows).toEqual([
      { out_epoch: 2, out_sequence: 0 },
    ]);
  });

  it("goes on: the next lot, no serial number or slot twice, one history", async () => {
    const copy = new LedgerCopy({ db, folder: copyFolder });
    const faults: unknown[] = [];
    const sequencer = new Sequencer({
      db,
      origin: z.origin,
      signer: signers.log,
      actKeys: () => [actKey(signers.act.spki, signers.act.algorithm)],
      verify: nodeVerify,
      seen: sightings(),
      keep: (checkpoint) => copy.keep(checkpoint),
      onError: (error) => faults.push(error),
    });
    sequencer.start();
    const acts = new Acts({ db, origin: z.origin, party: z.party });
    const caKey = await token.caKey("ca");
    const custody = { ...z.custody, db, acts, actSigner: signers.act };
    const issuing = { ...z.issuing, db, acts, caKey: async () => caKey };
    await wholeLot("L5", testDevices(3), custody, issuing);
    // The release that was signed before goes on its way, as it was signed.
    await recordRelease(custody, "L4.h1");
    await acts.waitIncluded([(await acts.find("handoff/L4.h1", "released"))!.retryKey], { timeoutMs: 10_000 });
    acts.close();
    await sequencer.stop();
    await copy.close();
    expect(faults).toEqual([]);

    for (const fetch of [databaseSource(db), journaledSource(copyFolder, folderSource(copyFolder))]) {
      const audit = await auditLog({ fetch, log, verify: nodeVerify, sha256: nodeSha256, previous: before.note });
      expect(audit).toMatchObject({ ok: true });
    }
    const { size } = (await readHead(db))!;
    const entries = (await readEntries(db, 0, size)).map((entry) => Buffer.from(entry).toString());
    expect(entries.filter((entry) => entry.includes("act:certified:"))).toHaveLength(3 + 2 + 3 + 3);
    for (const twice of [
      "SELECT serial FROM issuance GROUP BY serial HAVING count(*) > 1",
      "SELECT lot, slot FROM device GROUP BY lot, slot HAVING count(*) > 1",
    ]) {
      expect((await db.query(twice)).rows).toEqual([]);
    }
    // Once more changes nothing but saying so.
    await expect(rebuildLedger(options())).resolves.toMatchObject({ size, left: [] });
  });
});
