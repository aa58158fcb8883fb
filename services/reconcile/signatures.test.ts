import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, it } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import { commandAuditSource, openToken, type CaKey, type Token, type TokenAuditSource } from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { buildCrl, lintCrl } from "../../lib/pki/crl.ts";
import { issuerFromCertificate, validityFor } from "../../lib/pki/issuer.ts";
import { lintTbs } from "../../lib/pki/lint.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { ActFields } from "../../lib/records/acts.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { siteCounts } from "../../store/counts.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import { readBaseline, storeBaseline } from "../../store/signature-account.ts";
import { FaultHsm } from "../../test/support/fault-hsm.ts";
import { softhsmDir, tempDir } from "../../test/support/index.ts";
import { throwawayKey } from "../../test/support/issuing.ts";
import { lotSite, ownLot, testDevices, type LotSite } from "../../test/support/lot-site.ts";
import { submitCsrs } from "../intake/submit.ts";
import { recordBuilt } from "../issuing/built.ts";
import { issueBatch } from "../issuing/certify.ts";
import { accountedToken } from "./accounted.ts";
import { SignatureAudit } from "./signatures.ts";

/** SoftHSM behind the fault-injecting module, which counts as an HSM does: the vendor's counter is its file. */

type EvidenceOf<W> = Extract<ActFields<"alarm">, { what: W }>["evidence"];

let hsm: FaultHsm;
let site: LotSite;
let token: Token;
let audit: SignatureAudit;
let now = Date.now();
let lots = 0;

/** The counter, read by a program of its own. */
function counterCommand(): string[] {
  const { file, offset } = hsm.caCounter;
  const program = `
    const { readFileSync } = require("node:fs");
    const signatures = Number(readFileSync(process.argv[1]).readBigUInt64LE(Number(process.argv[2])));
    console.log(JSON.stringify({ signatures }));`;
  return [process.execPath, "-e", program, file, String(offset)];
}

beforeAll(async () => {
  const { module: _softhsm } = softhsmDir();
  hsm = new FaultHsm(tempDir("audit"));
  site = await lotSite({ module: hsm.module });
  token = await site.anotherSession();
  const context = { ...site.issuing, actSigner: site.act, now: () => new Date(now) };
  const repeats = () => token.health().repeats + site.token.health().repeats;
  const source: TokenAuditSource = { signatures: async () => hsm.caSignatures() };
  audit = new SignatureAudit(context, { spki: site.ca.spki, source, repeats });
}, 60_000);
afterAll(async () => {
  hsm?.set();
  await token?.close();
  await site?.close();
});

async function lotOf(count: number): Promise<string> {
  const lot = `counted-${++lots}`;
  await ownLot(site, lot, count);
  const csrs = testDevices(count).map(({ csr }) => csr);
  const post = async (kind: "built" | "certify") =>
    (await submitCsrs(site.intake, lot, await csrManifest(site.client("station"), kind, lot, csrs), csrs)).id;
  await recordBuilt(site.issuing, await post("built"));
  return await post("certify");
}

/** By whoever has the token's PIN. */
async function steal(count: number): Promise<void> {
  const profile = profileNamed("ldevid");
  const issuer = issuerFromCertificate(site.ca);
  const thief = await openToken({ ...site.race.token, sessions: 1 });
  try {
    const key = await thief.caKey("ca");
    for (let i = 0; i < count; i++) {
      const serial = newSerial((length) => randomBytes(length));
      const subject = { commonName: `dev-stolen-${i}` };
      const common = { issuer, serial, ...validityFor(profile, new Date(), issuer), crlUrl: undefined };
      const tbs = buildTbs(profile, { ...common, subject, spki: throwawayKey().spki });
      await key.signCertificate(lintTbs(tbs, profile, issuer));
    }
  } finally {
    await thief.close();
  }
}

async function alarms<W extends "unaccounted-signatures" | "signature-counter-set-back">(what: W) {
  await expect.poll(async () => (await siteCounts(site.db)).pendingActs, { timeout: 20_000 }).toBe(0);
  const { size } = (await readHead(site.db))!;
  return (await readEntries(site.db, 0, size)).flatMap((entry) => {
    const { act } = parseEntry(entry);
    const fields = act.fields as ActFields<"alarm">;
    return act.type === "alarm" && fields.what === what ? [fields.evidence as EvidenceOf<W>] : [];
  });
}

/** Both counts at rest, over the time after which nothing can be under way. */
async function atRest(): Promise<void> {
  for (let i = 0; i < 2; i++) {
    expect(await audit.compare()).toBeUndefined();
    now += 6 * 60_000;
  }
  expect(await audit.compare()).toBeUndefined();
}

it("agrees with the token over a lot, a CRL and a request", async () => {
  expect(await audit.compare()).toBeUndefined();
  await issueBatch(site.issuing, await lotOf(40));
  const key = await accountedToken(token, site.db).caKey("ca");
  const issuer = issuerFromCertificate(site.ca);
  const thisUpdate = new Date(Math.floor(Date.now() / 1000) * 1000);
  const times = { thisUpdate, nextUpdate: new Date(thisUpdate.getTime() + 86_400_000) };
  await key.signCrl(lintCrl(buildCrl({ number: 1n, ...times, revoked: [], issuer }), issuer));
  await key.signRequest({ cn: "technician-z CA" });
  expect(hsm.caSignatures()).toBe(42);
  await atRest();
  expect(await alarms("unaccounted-signatures")).toEqual([]);
});

it("raises no alarm over what crashes and a failing token had signed twice", async () => {
  const crash = (): never => {
    throw new Error("crash");
  };
  const batch = await lotOf(20);
  await expect(issueBatch({ ...site.issuing, seam: { afterSigning: crash } }, batch)).rejects.toThrow("crash");
  await audit.compare();
  hsm.set({ function: "C_Sign", from: 3, count: 1, does: { fail: "DEVICE_ERROR" } });
  await issueBatch(site.issuing, batch);
  hsm.set({ function: "C_Sign", from: 5, count: 1, does: "corrupt" });
  const spoilt = await lotOf(10);
  await expect(issueBatch(site.issuing, spoilt)).rejects.toMatchObject({ code: "hsm-signature-invalid" });
  hsm.set();
  await issueBatch(site.issuing, spoilt);
  await atRest();
  expect(await alarms("unaccounted-signatures")).toEqual([]);
});

it("finds each signature that the site didn't ask for, also between others, and tells of it once", async () => {
  await steal(1);
  await issueBatch(site.issuing, await lotOf(15));
  expect(await audit.compare()).toMatchObject({ excess: 1 });
  expect(await audit.compare()).toBeUndefined();
  await steal(3);
  expect(await audit.compare()).toMatchObject({ excess: 3 });
  await atRest();
  const told = await alarms("unaccounted-signatures");
  expect(told).toHaveLength(2);
  expect(told.map(({ counted, since, accounted }) => counted - since - accounted)).toEqual([1, 3]);
});

it("leaves no room for a theft under what was asked for while the token refused", async () => {
  const batch = await lotOf(30);
  const refuse = async (): Promise<never> => {
    throw new CountersignError("hsm-unavailable", "out of order", { details: { refused: "circuit-open" } });
  };
  const away = { ...site.issuing, caKey: async () => ({ ...site.caKey, signCertificate: refuse }) as unknown as CaKey };
  for (let i = 0; i < 3; i++) await expect(issueBatch(away, batch)).rejects.toMatchObject({ code: "hsm-unavailable" });
  await expect(issueBatch({ ...site.issuing, caKey: refuse }, batch)).rejects.toMatchObject({
    code: "hsm-unavailable",
  });
  await steal(1);
  expect(await audit.compare()).toMatchObject({ excess: 1 });
  await issueBatch(site.issuing, batch);
  expect(await audit.compare()).toBeUndefined();
  await steal(1);
  expect(await audit.compare()).toMatchObject({ excess: 1 });
});

it("raises an alarm over a counter that was set back, each time once, and begins anew", async () => {
  const context = { ...site.issuing, actSigner: site.act };
  let counter = 5;
  const source = { signatures: async () => counter };
  const { spki } = throwawayKey();
  const compare = async (now: number) =>
    await new SignatureAudit({ ...context, now: () => new Date(now) }, { spki, source, repeats: () => 0 }, 0).compare();
  expect(await compare(1_000)).toBeUndefined();
  // Signed and hidden again, above the first look's count.
  counter = 9;
  await site.db.query("INSERT INTO signature_account (key_id, noted) VALUES ($1, 4)", [keyId(spki)]);
  expect(await compare(2_000)).toBeUndefined();
  counter = 7;
  const raised = await compare(3_000);
  expect(raised).toMatchObject({ excess: undefined });
  expect(await compare(4_000)).toBeUndefined();
  counter = 8;
  expect(await compare(5_000)).toMatchObject({ excess: 1 });
  // Again to the same count: another alarm.
  counter = 9;
  await site.db.query("UPDATE signature_account SET noted = noted + 1 WHERE key_id = $1", [keyId(spki)]);
  expect(await compare(6_000)).toBeUndefined();
  counter = 7;
  const again = await compare(7_000);
  expect(again).toMatchObject({ excess: undefined });
  expect(again!.leafHash).not.toBe(raised!.leafHash);
  const told = (await alarms("signature-counter-set-back")).map(({ before, counted, seen }) => [before, counted, seen]);
  expect(told).toEqual([
    [9, 7, new Date(2_000).toISOString()],
    [9, 7, new Date(6_000).toISOString()],
  ]);
});

it("tells of a counter's return once, whatever crashes after the act", async () => {
  let counter = 5;
  const { spki } = throwawayKey();
  const key = { spki, source: { signatures: async () => counter }, repeats: () => 0 };
  const audit = new SignatureAudit({ ...site.issuing, actSigner: site.act }, key);
  await audit.compare();
  const before = await readBaseline(site.db, keyId(spki));
  counter = 0;
  const first = await audit.compare();
  await storeBaseline(site.db, keyId(spki), before!);
  expect(await audit.compare()).toEqual(first);
});

it("a program can be the source; one that fails or says something else is told about", async () => {
  expect(await commandAuditSource(counterCommand()).signatures()).toBe(hsm.caSignatures());
  for (const program of ["process.exit(3)", "console.log('many')", "console.log('{\"signatures\": -1}')"]) {
    await expect(commandAuditSource([process.execPath, "-e", program]).signatures()).rejects.toMatchObject({
      code: "hsm-unavailable",
      message: expect.stringContaining("hsm.audit") as string,
    });
  }
  const deaf = "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)";
  await expect(commandAuditSource([process.execPath, "-e", deaf], 1_000).signatures()).rejects.toMatchObject({
    code: "hsm-unavailable",
  });
}, 10_000);
