import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import type { CaKey } from "../../hsm/index.ts";
import { toBase64 } from "../../lib/domain/bytes.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { storeCaCertificate } from "../../store/authority.ts";
import { inTransaction } from "../../store/db.ts";
import { currentGrant, debitQuota, storeGrant } from "../../store/grants.ts";
import { findIssuances } from "../../store/issuance.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import {
  closeGrant,
  findRotation,
  fixEffectiveSize,
  giveUpLostKey,
  queueIsPast,
  reopenGrant,
  requestRotation,
  setRotation,
  storeProofs,
} from "../../store/rotations.ts";
import { issue } from "../../test/support/issuing.ts";
import { lotSite, ownLot, testDevices, type LotSite, type TestDevice } from "../../test/support/lot-site.ts";
import { submitCsrs } from "../intake/submit.ts";
import { keepCrls } from "../parties/own-cas.ts";
import { refuseAnswered, refuseUnsent, sendRotation, type RotationContext } from "../parties/rotate.ts";
import { settleIntents } from "../reconcile/intents.ts";
import { recordBuilt } from "./built.ts";
import { issueBatch } from "./certify.ts";
import type { IssuingContext } from "./context.ts";

/** What is being issued while the CA's key changes, by the very tables and locks of a site. */
let site: LotSite;
let keys: Map<string, CaKey>;
let context: IssuingContext;
beforeAll(async () => {
  site = await lotSite();
  keys = new Map([[keyId(site.caKey.spki), site.caKey]]);
  context = { ...site.issuing, caKey: async (id) => keys.get(id)! };
  await storeCaCertificate(site.db, { keyId: keyId(site.ca.spki), role: "ca", certificate: site.ca.der });
});
afterAll(() => site.close());

async function built(lot: string, count: number): Promise<{ devices: TestDevice[]; batch: string }> {
  await ownLot(site, lot, count);
  const devices = testDevices(count);
  const csrs = devices.map(({ csr }) => csr);
  const post = async (kind: "built" | "certify"): Promise<string> =>
    (await submitCsrs(site.intake, lot, await csrManifest(site.client("station"), kind, lot, csrs), csrs)).id;
  await recordBuilt(context, await post("built"));
  return { devices, batch: await post("certify") };
}

/** What the acceptance of a grant for another key stores, once the ledger's queue is past what was begun. */
async function takeEffect(label: string): Promise<{ ca: Certificate; size: number }> {
  const key = await site.token.generateCaKey({ label, algorithm: "ec-p256" });
  keys.set(keyId(key.spki), key);
  const ca = issue(site.root, "intermediate-embedded", { commonName: `${site.party} CA` }, key.spki, { pathLen: 0 });
  const held = await currentGrant(site.db);
  const last = await inTransaction(site.db, (tx) => closeGrant(tx, held.ref.leafHash));
  await expect.poll(() => queueIsPast(site.db, last), { timeout: 10_000 }).toBe(true);
  const { size } = (await readHead(site.db))!;
  const fields = { ...held.fields, revision: held.fields.revision + 1, ca: toBase64(key.spki) };
  const ref = { origin: held.ref.origin, leafHash: randomBytes(32).toString("hex") };
  const upstream = [site.root.certificate.der];
  await inTransaction(site.db, async (tx) => {
    await storeGrant(tx, {
      ...{ ref, parent: held.parent, entry: new Uint8Array(1) },
      ...{ fields: { ...fields, certificate: toBase64(ca.der) }, certificate: ca.der, upstream },
    });
    await storeCaCertificate(tx, { keyId: keyId(key.spki), role: "ca", certificate: ca.der, label });
  });
  return { ca, size };
}

async function issuers(devices: readonly TestDevice[]): Promise<string[]> {
  const ids = devices.map(({ id }) => id);
  return (await findIssuances(site.db, "ldevid", ids)).map(({ issuerKeyId, certificate }) => {
    expect(certificate).not.toBeNull();
    return issuerKeyId;
  });
}

/** By index, of every batch intended: the grant it is under. */
async function intents(): Promise<Map<number, string>> {
  const { size } = (await readHead(site.db))!;
  const found = new Map<number, string>();
  for (const [index, entry] of (await readEntries(site.db, 0, size)).entries()) {
    const { act } = parseEntry(entry);
    if (act.type === "intent") found.set(index, act.grant!.leafHash);
  }
  return found;
}

describe("issuing while the CA's key changes", () => {
  it("signs what was intended before under the old key, after it took effect as well", async () => {
    const { devices, batch } = await built("rot-open", 3);
    const crash = (): never => {
      throw new Error("crash");
    };
    await expect(issueBatch({ ...context, seam: { afterIntents: crash } }, batch)).rejects.toThrow("crash");
    const left = await built("rot-left", 1);
    await expect(issueBatch({ ...context, seam: { afterIntents: crash } }, left.batch)).rejects.toThrow("crash");
    const { ca } = await takeEffect("ca-2");
    await issueBatch(context, batch);
    expect(new Set(await issuers(devices))).toEqual(new Set([keyId(site.ca.spki)]));
    // Of a batch that was given up: reconciliation finds it, and its key.
    await site.db.query("UPDATE batch SET state = 'done' WHERE id = $1", [left.batch]);
    const settled = await settleIntents(context, { since: new Date(0) }, 0);
    expect(settled).toMatchObject({ signed: [left.devices[0]!.id], abandoned: [], open: [] });
    const after = await built("rot-after", 2);
    await issueBatch(context, after.batch);
    expect(new Set(await issuers(after.devices))).toEqual(new Set([keyId(ca.spki)]));
  }, 60_000);

  it("sends away who would begin under a grant that is closing, and nobody once that is taken back", async () => {
    const { ref } = await currentGrant(site.db);
    await inTransaction(site.db, (tx) => closeGrant(tx, ref.leafHash));
    const debit = () => inTransaction(site.db, (tx) => debitQuota(tx, 1));
    await expect(debit()).rejects.toMatchObject({ code: "rotation-under-way" });
    await inTransaction(site.db, (tx) => reopenGrant(tx, ref.leafHash));
    expect(await debit()).toMatchObject({ grant: ref });
  });

  it("fixes no effective size behind which something may have begun, nor opens the way behind one", async () => {
    const { leafHash } = (await currentGrant(site.db)).ref;
    await requestRotation(site.db, { supersedes: leafHash, label: "ca-9", by: "test" });
    const close = () => inTransaction(site.db, (tx) => closeGrant(tx, leafHash));
    const reopen = () => inTransaction(site.db, (tx) => reopenGrant(tx, leafHash));
    const fix = () => inTransaction(site.db, (tx) => fixEffectiveSize(tx, leafHash, 7));
    await close();
    await reopen();
    await expect(fix()).rejects.toMatchObject({ code: "rotation-under-way" });
    for (let i = 0; i < 20; i++) {
      await close();
      const [fixed] = await Promise.allSettled(i % 2 === 0 ? [fix(), reopen()] : [fix(), reopen(), reopen()]);
      expect((await currentGrant(site.db)).closing).toBe(fixed?.status === "fulfilled");
      await site.db.query("UPDATE ca_rotation SET effective_size = NULL");
    }
    await reopen();
    await site.db.query("DELETE FROM ca_rotation");
  });

  it("gives up a new key that was lost when another is asked for, and never one that is under way or took effect", async () => {
    const { leafHash } = (await currentGrant(site.db)).ref;
    const [bytes, lost, next] = [1, 2, 3].map((n) => Uint8Array.of(n)) as [Uint8Array, Uint8Array, Uint8Array];
    const kept = async () => Buffer.from((await findRotation(site.db, leafHash))?.newSpki ?? []).toString("hex");
    const ask = () => requestRotation(site.db, { supersedes: leafHash, label: "ca-9", by: "test" });
    await ask();
    await storeProofs(site.db, leafHash, { oldSpki: bytes, newSpki: lost, oldProof: bytes, newProof: bytes });
    await giveUpLostKey(site.db, leafHash, lost);
    expect(await kept()).toBe("02");
    await setRotation(site.db, leafHash, { state: "sent" });
    await giveUpLostKey(site.db, leafHash, next);
    expect(await kept()).toBe("02");
    await setRotation(site.db, leafHash, { state: "refused", refusal: { code: "grant-mismatch", message: "lost" } });
    await ask();
    await site.db.query("UPDATE ca_rotation SET effective_size = 7");
    await giveUpLostKey(site.db, leafHash, next);
    expect(await kept()).toBe("02");
    await site.db.query("UPDATE ca_rotation SET effective_size = NULL");
    await giveUpLostKey(site.db, leafHash, next);
    expect(await findRotation(site.db, leafHash)).toMatchObject({ newSpki: null, oldProof: null, state: "requested" });
    await site.db.query("DELETE FROM ca_rotation");
  });

  it("puts every intent on the right side of the effective size, whoever races", async () => {
    const before = (await currentGrant(site.db)).ref.leafHash;
    const lots = await Promise.all(Array.from({ length: 6 }, (_, i) => built(`rot-race-${i}`, 4)));
    const issuing = lots.map(async ({ batch }, i) => {
      await new Promise((wake) => setTimeout(wake, 30 * i));
      await issueBatch(context, batch);
    });
    const [{ ca, size }] = await Promise.all([takeEffect("ca-3"), ...issuing]);
    const under = await intents();
    const after = (await currentGrant(site.db)).ref.leafHash;
    for (const [index, grant] of under) {
      if (grant === before) expect(index).toBeLessThan(size);
      if (grant === after) expect(index).toBeGreaterThanOrEqual(size);
    }
    const last = await built("rot-last", 1);
    await issueBatch(context, last.batch);
    expect(await issuers(last.devices)).toEqual([keyId(ca.spki)]);
  }, 60_000);

  it("says no to an order whose grant was renewed before it was sent, and to none but the one that is meant", async () => {
    const held = await currentGrant(site.db);
    const { rows: older } = await site.db.query<{ leaf: string }>(
      "SELECT leaf_hash AS leaf FROM grant_received WHERE NOT current LIMIT 1",
    );
    const [before, now] = [older[0]!.leaf, held.ref.leafHash];
    const ask = (supersedes: string) => requestRotation(site.db, { supersedes, label: "ca-9", by: "test" });
    const state = async (supersedes: string) => (await findRotation(site.db, supersedes))?.state;
    const context = { db: site.db } as RotationContext;
    const no = { code: "grant-mismatch", message: "no" };
    await ask(before);
    await sendRotation(context);
    expect(await findRotation(site.db, before)).toMatchObject({ state: "refused", errorCode: "state-conflict" });
    expect(await state(now)).toBeUndefined();

    await ask(now);
    await setRotation(site.db, now, { state: "sent" });
    await ask(before);
    await refuseUnsent(site.db, no);
    expect([await state(before), await state(now)]).toEqual(["refused", "sent"]);

    // Grants that aren't taken: a mere renewal, one for a key that was asked for earlier, one for a key that nobody knows.
    await ask(before);
    const [bytes, key] = [Uint8Array.of(1), Uint8Array.of(9)];
    await storeProofs(site.db, before, { oldSpki: bytes, newSpki: key, oldProof: bytes, newProof: bytes });
    const next = { ...held.fields, supersedes: held.ref };
    await refuseAnswered(site.db, no, next);
    expect([await state(before), await state(now)]).toEqual(["requested", "sent"]);
    await refuseAnswered(site.db, no, { ...next, ca: toBase64(key) });
    expect([await state(before), await state(now)]).toEqual(["refused", "sent"]);
    await refuseAnswered(site.db, no, { ...next, ca: toBase64(bytes) });
    expect(await state(now)).toBe("refused");
    await site.db.query("DELETE FROM ca_rotation");
  });

  it("goes on making a CRL with each key, and takes no other key for one of them", async () => {
    await keepCrls(site.db, site.token, new Date());
    const { rows } = await site.db.query<{ key_id: string }>("SELECT DISTINCT key_id FROM crl");
    expect(rows.map((row) => row.key_id).sort()).toEqual([...keys.keys()].sort());
    await site.db.query("UPDATE ca_certificate SET label = 'ca-2' WHERE label = 'ca-3'");
    await expect(keepCrls(site.db, site.token, new Date())).rejects.toMatchObject({ code: "hsm-key-missing" });
  });
});
