import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import type { CaKey } from "../../hsm/index.ts";
import { fromBase64, toBase64, utf8 } from "../../lib/domain/bytes.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { octetString } from "../../lib/pki/der-write.ts";
import { issuerFromCertificate, validityFor } from "../../lib/pki/issuer.ts";
import { lintTbs } from "../../lib/pki/lint.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { batchAnswers, type BatchAnswer } from "../../store/batches.ts";
import { inTransaction } from "../../store/db.ts";
import { siteCounts } from "../../store/counts.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import { storeInbox } from "../../store/messages.ts";
import { throwawayKey } from "../../test/support/issuing.ts";
import { rawCertificate, rawDefaults, rawExtension } from "../../test/support/raw-certificate.ts";
import { lotSite, ownLot, testDevices, type LotSite, type TestDevice } from "../../test/support/lot-site.ts";
import { submitCsrs } from "../intake/submit.ts";
import { recordBuilt } from "../issuing/built.ts";
import { issueBatch } from "../issuing/certify.ts";
import type { IssuingContext } from "../issuing/context.ts";
import { refuseBatch } from "../issuing/refuse.ts";
import { watchInbox } from "./inbox.ts";
import { reconcile } from "./reconcile.ts";
import { checkSeen } from "./seen.ts";
import type { ReconcileContext } from "./context.ts";

let site: LotSite;
let context: ReconcileContext & IssuingContext;
let lots = 0;

beforeAll(async () => {
  site = await lotSite();
  context = { ...site.issuing, actSigner: site.act };
});
afterAll(() => site.close());

async function post(lot: string, kind: "built" | "certify", devices: readonly TestDevice[]): Promise<string> {
  const csrs = devices.map((device) => device.csr);
  return (await submitCsrs(site.intake, lot, await csrManifest(site.client("station"), kind, lot, csrs), csrs)).id;
}

async function builtLot(count: number): Promise<{ lot: string; devices: TestDevice[] }> {
  const lot = `lot-${++lots}`;
  await ownLot(site, lot, count);
  const devices = testDevices(count);
  await recordBuilt(site.issuing, await post(lot, "built", devices));
  return { lot, devices };
}

const crash = (): never => {
  throw new Error("crash");
};

/** Intents durable, nothing signed, and the batch answered: nobody will come back for them. */
async function orphans(count: number) {
  const made = await builtLot(count);
  const batch = await post(made.lot, "certify", made.devices);
  await expect(issueBatch({ ...site.issuing, seam: { afterIntents: crash } }, batch)).rejects.toThrow("crash");
  await refuseBatch(site.db, batch, { code: "internal", message: "given up" });
  return { ...made, batch };
}

async function again(lot: string, devices: readonly TestDevice[]): Promise<BatchAnswer[]> {
  const batch = await post(lot, "certify", devices);
  await issueBatch(site.issuing, batch);
  return (await batchAnswers(site.db, batch)).answers;
}

async function acts() {
  await expect.poll(async () => (await siteCounts(site.db)).pendingActs, { timeout: 20_000 }).toBe(0);
  const { size } = (await readHead(site.db))!;
  return (await readEntries(site.db, 0, size)).map((entry) => parseEntry(entry).act);
}
const alarms = async () =>
  (await acts()).flatMap(({ subject, ...act }) =>
    act.type === "alarm" && act.fields.what === "unlogged-certificate" ? [{ subject, fields: act.fields }] : [],
  );

const rows = async (lot: string) =>
  (
    await site.db.query<{ device: string; tbs: Uint8Array; certificate: Uint8Array | null; abandoned: string | null }>(
      "SELECT device, tbs, certificate, abandoned FROM issuance WHERE lot = $1 ORDER BY device",
      [lot],
    )
  ).rows;

/** Puts a certificate into a lot's rows that no record stands for. */
const plant = (lot: string, der: Uint8Array) =>
  site.db.query(
    `INSERT INTO issuance_certificate (device, profile, certificate, retry_key, leaf_hash)
     SELECT device, profile, $2, decode(repeat('ab', 32), 'hex'), decode(repeat('cd', 32), 'hex')
     FROM issuance_intent WHERE lot = $1
     ON CONFLICT (device, profile) DO UPDATE SET certificate = EXCLUDED.certificate, retry_key = EXCLUDED.retry_key`,
    [lot, der],
  );

describe("open intents", () => {
  it("whose batch is done are signed under the same bytes, once, and given out when asked for again", async () => {
    const { lot, devices } = await orphans(3);
    const before = await rows(lot);
    const [one, two] = await Promise.all([
      reconcile(context, { olderThanMs: 0 }),
      reconcile(context, { olderThanMs: 0 }),
    ]);
    const signed = new Set([...one.intents.signed, ...two.intents.signed]);
    expect([...signed].sort()).toEqual(devices.map((device) => device.id).sort());
    const after = await rows(lot);
    expect(after.map((row) => Buffer.from(parseCertificate(row.certificate!).tbs))).toEqual(
      before.map((row) => Buffer.from(row.tbs)),
    );
    const answers = await again(lot, devices);
    for (const [i, { certificate }] of answers.entries()) {
      const row = after.find(({ device }) => device === devices[i]!.id)!;
      expect(Buffer.from(certificate!)).toEqual(Buffer.from(row.certificate!));
    }
    const certified = (await acts()).filter((act) => act.type === "certified" && act.fields.lot === lot);
    expect(certified).toHaveLength(3);
    expect((await reconcile(context, { olderThanMs: 0 })).intents).toEqual({ signed: [], abandoned: [], open: [] });
  });

  it("in somebody's hands are left alone", async () => {
    const { lot, devices } = await builtLot(2);
    const batch = await post(lot, "certify", devices);
    await expect(issueBatch({ ...site.issuing, seam: { afterIntents: crash } }, batch)).rejects.toThrow("crash");
    expect((await reconcile(context, { olderThanMs: 0 })).intents.signed).toEqual([]);
    await issueBatch(site.issuing, batch);
    const late = await orphans(1);
    expect((await reconcile(context)).intents.signed).toEqual([]);
    expect((await rows(late.lot))[0]!.certificate).toBeNull();
    await reconcile(context, { olderThanMs: 0 });
  });

  it("that may not be signed any more are given up with the reason, and never signed", async () => {
    const { lot, devices } = await orphans(2);
    const later = { ...context, now: () => new Date("2099-06-01T00:00:00Z") };
    const { abandoned } = (await reconcile(later, { olderThanMs: 0 })).intents;
    expect(abandoned.map(({ device }) => device).sort()).toEqual(devices.map((device) => device.id).sort());
    expect(abandoned[0]!.reason).toMatch(/grant .* ended/);
    expect((await reconcile(context, { olderThanMs: 0 })).intents.signed).toEqual([]);
    expect((await again(lot, devices)).map(({ code }) => code)).toEqual(["state-conflict", "state-conflict"]);
    expect((await rows(lot)).every((row) => row.certificate === null && row.abandoned !== null)).toBe(true);
  });

  it("given up while they are being signed get no certificate", async () => {
    const { lot, devices } = await builtLot(1);
    const batch = await post(lot, "certify", devices);
    const giveUp = async (): Promise<void> => {
      await site.db.query("UPDATE issuance_intent SET abandoned = 'in between' WHERE lot = $1", [lot]);
    };
    await expect(issueBatch({ ...site.issuing, seam: { afterSigning: giveUp } }, batch)).rejects.toMatchObject({
      code: "internal",
    });
    await issueBatch(site.issuing, batch);
    expect((await batchAnswers(site.db, batch)).answers[0]).toMatchObject({
      code: "state-conflict",
      certificate: null,
    });
    expect((await rows(lot))[0]!.certificate).toBeNull();
  });

  it("stay open, and are told of, while the HSM is out of reach", async () => {
    const { lot } = await orphans(1);
    const down = { ...context, caKey: async (): Promise<CaKey> => crash() };
    expect((await reconcile(down, { olderThanMs: 0 })).intents).toMatchObject({
      signed: [],
      open: [{ reason: "crash" }],
    });
    expect((await reconcile(context, { olderThanMs: 0 })).intents.signed).toHaveLength(1);
    expect((await rows(lot))[0]!.certificate).not.toBeNull();
  });
});

describe("a certificate that is seen", () => {
  /** By whoever holds the token's PIN: linted, and past the ledger. */
  async function stolen(id: string): Promise<Uint8Array> {
    const profile = profileNamed("ldevid");
    const issuer = issuerFromCertificate(site.ca);
    const tbs = buildTbs(profile, {
      issuer,
      serial: newSerial((length) => randomBytes(length)),
      ...validityFor(profile, new Date(), issuer),
      subject: { commonName: id },
      spki: throwawayKey().spki,
      crlUrl: undefined,
    });
    const token = await site.anotherSession();
    try {
      return await (await token.caKey("ca")).signCertificate(lintTbs(tbs, profile, issuer));
    } finally {
      await token.close();
    }
  }

  it("is known when the ledger holds it, foreign when another's key signed it", async () => {
    const { lot, devices } = await builtLot(1);
    const [answer] = await again(lot, devices);
    const seen = await checkSeen(context, [answer!.certificate!, site.root.certificate.der]);
    expect(seen.map(({ state }) => state)).toEqual(["known", "foreign"]);
    await expect(checkSeen(context, [new Uint8Array(40)])).rejects.toMatchObject({ code: expect.any(String) });
  });

  it("raises one alarm when our CA key signed it and no ledger holds it, however often and by whom it is seen", async () => {
    const before = (await alarms()).length;
    const der = await stolen("dev-stolen-1");
    const seen = await Promise.all([checkSeen(context, [der, der]), checkSeen(context, [der])]);
    expect(seen.flat().map(({ state }) => state)).toEqual(["unknown", "unknown", "unknown"]);
    expect(new Set(seen.flat().map(({ alarm }) => alarm!.leafHash)).size).toBe(1);
    expect((await checkSeen(context, [der]))[0]!.alarm!.first).toBe(false);
    const raised = await alarms();
    expect(raised).toHaveLength(before + 1);
    expect(Buffer.from(fromBase64((raised.at(-1)!.fields.evidence as { certificate: string }).certificate))).toEqual(
      Buffer.from(der),
    );
  });

  it("raises its alarm also when it is larger than an entry", async () => {
    const { key, certificate } = site.root;
    await site.db.query("INSERT INTO ca_certificate (key_id, role, certificate) VALUES ('root', 'root', $1)", [
      certificate.der,
    ]);
    const subject = certificate.subject.der;
    const large = rawExtension.any("1.3.6.1.4.1.55555.1", false, octetString(randomBytes(40_000)));
    const described = { subject, key: throwawayKey(), issuer: { subject, key }, extensions: [large], serial: 7 };
    const der = rawCertificate(rawDefaults({ ...described, at: new Date("2026-06-01T00:00:00Z") }));
    const [seen] = await checkSeen(context, [der]);
    expect(seen).toMatchObject({ state: "unknown", alarm: { first: true } });
    const raised = (await alarms()).at(-1)!;
    expect(raised.fields.evidence).toEqual({ caKey: keyId(key.spki), size: der.length });
    expect(raised.subject[0]!.digest.sha256).toBe(seen!.sha256);
    await site.db.query("DELETE FROM ca_certificate");
  });

  it("in a message of another party raises its alarm too, and nothing else hinders the message", async () => {
    const before = (await alarms()).length;
    const upstream = [site.root.certificate.der, await stolen("dev-stolen-2")].map((der) => toBase64(der));
    const id = randomUUID();
    const body = utf8(JSON.stringify({ act: toBase64(new Uint8Array(40)), upstream }));
    await site.db.query(
      "INSERT INTO peer (party, direction, contact, act_spki, act_key_id) VALUES ('factory-y', 'parent', '{}', '', '')",
    );
    const numbered = { sender: "factory-y", epoch: 1, sequence: 1, inReplyTo: null };
    const envelope = { envelope: new Uint8Array(1), envelopeSha256: "ab".repeat(32), body };
    await inTransaction(site.db, (tx) => storeInbox(tx, { id, type: "delegation", ...numbered, ...envelope }));
    const handled: string[] = [];
    const handlers = watchInbox({ delegation: async (message) => void handled.push(message.id) }, context);
    await handlers.delegation!({ id, sender: "factory-y", inReplyTo: null });
    await handlers.delegation!({ id, sender: "factory-y", inReplyTo: null });
    expect(handled).toEqual([id, id]);
    expect(await alarms()).toHaveLength(before + 1);
  });

  it("in the site's own database, without an entry in the ledger, raises its alarm too", async () => {
    const { lot, devices } = await orphans(1);
    const der = await stolen(devices[0]!.id);
    await plant(lot, der);
    expect((await reconcile(context)).alarms).toHaveLength(1);
    expect((await reconcile(context)).alarms).toHaveLength(0);
    expect((await alarms()).at(-1)!.subject[0]!.name).toBe(site.party);
  });

  it("is found beside a row that holds no certificate at all, which is told", async () => {
    const [one, two] = [await orphans(1), await orphans(1)];
    await plant(one.lot, utf8("no certificate"));
    await plant(two.lot, await stolen(two.devices[0]!.id));
    const before = (await alarms()).length;
    await expect(reconcile(context, { everything: true })).rejects.toMatchObject({ kind: "invalid" });
    expect(await alarms()).toHaveLength(before + 1);
    await site.db.query("DELETE FROM issuance_intent WHERE lot = $1", [one.lot]);
  });

  it("in a row that somebody changed long after it was settled is found by the slow pass, or when all is asked for", async () => {
    const progress = async () =>
      (await site.db.query<{ at: Date }>("SELECT settled_before AS at FROM reconcile_progress")).rows[0]!.at;
    await site.db.query("UPDATE issuance_intent SET created = created - interval '1 day'");
    await reconcile(context, { olderThanMs: 0 });
    expect(Date.now() - (await progress()).getTime()).toBeLessThan(600_000);
    const made = await builtLot(1);
    await again(made.lot, made.devices);
    await site.db.query("UPDATE issuance_intent SET created = created - interval '1 day'");

    await plant(made.lot, await stolen(made.devices[0]!.id));
    await site.db.query("UPDATE reconcile_progress SET device = 'zzz'");
    expect((await reconcile(context)).alarms).toHaveLength(0);
    expect((await reconcile(context)).alarms).toHaveLength(1);

    await plant(made.lot, await stolen(made.devices[0]!.id));
    await site.db.query("UPDATE reconcile_progress SET device = 'zzz'");
    expect((await reconcile(context, { everything: true })).alarms).toHaveLength(1);
  });

  it("waits for intents that are open before it counts what is older as settled", async () => {
    const { lot } = await orphans(1);
    await site.db.query("UPDATE reconcile_progress SET settled_before = now() - interval '3 days'");
    await site.db.query("UPDATE issuance_intent SET created = now() - interval '2 days' WHERE lot = $1", [lot]);
    const down = { ...context, caKey: async (): Promise<CaKey> => crash() };
    expect((await reconcile(down)).intents.open).toHaveLength(1);
    expect((await reconcile(context)).intents.signed).toHaveLength(1);
    expect((await rows(lot))[0]!.certificate).not.toBeNull();
  });
});
