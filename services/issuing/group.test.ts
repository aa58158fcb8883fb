import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import { findPkcs11Module } from "../../test/support/index.ts";
import { fromBase64, fromHex, toBase64, toHex } from "../../lib/domain/bytes.ts";
import { leafHash, verifyInclusion } from "../../lib/ledger/tree.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { csrItem } from "../../lib/records/manifest.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { batchAnswers, batchSizes, type BatchAnswer } from "../../store/batches.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import {
  buildDevices,
  lotSite,
  ownLot,
  testDevice,
  testDevices,
  type LotSite,
  type TestDevice,
} from "../../test/support/lot-site.ts";
import { submitCsrs } from "../intake/submit.ts";
import { nodeSha256 } from "../ledger/index.ts";
import { issueBatch, issueBatches } from "./certify.ts";
import type { IssuingContext } from "./context.ts";
import { Gatherer } from "./gather.ts";
import { sha256Hex } from "./items.ts";

let site: LotSite;
beforeAll(async () => {
  site = await lotSite();
});
afterAll(() => site.close());

let lots = 0;
/** A lot with these devices built. */
async function lotOf(devices: readonly TestDevice[], at = site): Promise<string> {
  const lot = `lot-together-${++lots}`;
  await ownLot(at, lot, devices.length + 5);
  await buildDevices(at, lot, devices);
  return lot;
}

async function post(lot: string, csrs: readonly Uint8Array[], at = site): Promise<string> {
  return (await submitCsrs(at.intake, lot, await csrManifest(at.client("station"), "certify", lot, csrs), csrs)).id;
}
const postEach = (lot: string, devices: readonly TestDevice[], at = site): Promise<string[]> =>
  Promise.all(devices.map(({ csr }) => post(lot, [csr], at)));

async function answers(ids: readonly string[], at = site): Promise<BatchAnswer[]> {
  const all = await Promise.all(ids.map((id) => batchAnswers(at.db, id)));
  expect(all.map(({ state }) => state)).toEqual(ids.map(() => "done"));
  return all.flatMap((batch) => batch.answers);
}
const codes = (list: readonly BatchAnswer[]): (string | null)[] => list.map(({ code }) => code);
const hex = ({ certificate }: BatchAnswer): string => toHex(certificate!);

async function actsOf(lot: string) {
  const { size } = (await readHead(site.db))!;
  const all = (await readEntries(site.db, 0, size)).map((entry) => ({
    leaf: toHex(leafHash(entry, nodeSha256)),
    act: parseEntry(entry).act,
  }));
  return {
    intents: all.flatMap(({ leaf, act }) => (act.type === "intent" && act.fields.lot === lot ? [{ leaf, act }] : [])),
    certified: all.flatMap(({ act }) => (act.type === "certified" && act.fields.lot === lot ? [act] : [])),
  };
}

const gathererOf = (context: IssuingContext, groups: string[][] = []): Gatherer =>
  new Gatherer({
    sizes: (ids) => batchSizes(context.db, ids),
    work: (ids, onProgress) => {
      groups.push([...ids]);
      return issueBatches(context, ids, onProgress);
    },
  });

describe("batches that are worked on together", () => {
  it("share their transactions, and each has an intent of its own over its own manifest", async () => {
    const devices = testDevices(22);
    const lot = await lotOf(devices);
    const ids = [
      ...(await postEach(lot, devices.slice(2))),
      await post(
        lot,
        devices.slice(0, 2).map((d) => d.csr),
      ),
    ];
    await issueBatches(site.issuing, ids);
    expect(codes(await answers(ids))).toEqual(Array(22).fill(null));

    const { rows } = await site.db.query(
      `SELECT count(DISTINCT n.xmin::text) AS intended, count(DISTINCT c.xmin::text) AS stored,
         (SELECT count(DISTINCT xmin::text) FROM batch_result WHERE batch = ANY($2)) AS answered,
         (SELECT count(DISTINCT xmin::text) FROM batch WHERE id = ANY($2)) AS finished
       FROM issuance_intent n JOIN issuance_certificate c USING (device, profile) WHERE n.lot = $1`,
      [lot, ids],
    );
    expect(rows).toEqual([{ intended: 1, stored: 1, answered: 1, finished: 1 }]);

    const { intents, certified } = await actsOf(lot);
    expect(intents).toHaveLength(21);
    expect(new Set(intents.map(({ act }) => act.fields.manifest)).size).toBe(21);
    expect(certified).toHaveLength(22);
    for (const { subject, fields } of certified) {
      const device = devices.find(({ id }) => id === subject[0]!.name)!;
      const { intake, intent } = fields;
      if (intake.kind !== "manifest") throw new Error("no manifest");
      const { act } = intents.find(({ leaf }) => leaf === intent.leafHash)!;
      expect(act.fields.manifest).toBe(intake.digest);
      const { tbs } = parseCertificate(fromBase64(fields.certificate));
      const claim = {
        leafHash: leafHash(nodeSha256(tbs)),
        index: intent.index,
        size: act.fields.count,
        path: intent.path.map(fromHex),
        root: fromHex(act.fields.tbsRoot),
      };
      expect(verifyInclusion(claim)).toBe(true);
      const manifest = await site.db.query<{ manifest: Buffer }>(
        `SELECT bytes AS manifest FROM ledger_blob WHERE sha256 = decode($1, 'hex')`,
        [intake.digest],
      );
      const payload = JSON.parse(manifest.rows[0]!.manifest.toString()) as { payload: string };
      const { root, count } = JSON.parse(Buffer.from(payload.payload, "base64").toString()) as {
        root: string;
        count: number;
      };
      const item = leafHash(csrItem(sha256Hex(device.csr)));
      const among = { leafHash: item, index: intake.index, size: count, path: intake.path.map(fromHex) };
      expect(verifyInclusion({ ...among, root: fromHex(root) })).toBe(true);
    }
  });

  it("give one certificate for the same CSR, and each its answer", async () => {
    const devices = testDevices(2);
    const lot = await lotOf(devices);
    const [one, two] = devices as [TestDevice, TestDevice];
    const ids = await postEach(lot, [one, two, one, one]);
    await issueBatches(site.issuing, ids);
    const got = await answers(ids);
    expect(codes(got)).toEqual([null, null, null, null]);
    expect(got.map(hex)).toEqual([got[0]!, got[1]!, got[0]!, got[0]!].map(hex));
    const again = await postEach(lot, [two, one]);
    await issueBatches(site.issuing, again);
    expect((await answers(again)).map(hex)).toEqual([got[1]!, got[0]!].map(hex));
    expect((await actsOf(lot)).certified).toHaveLength(2);
  });

  it("certify the CSR that a device was built with, and refuse another in whatever order they came", async () => {
    const devices = testDevices(2);
    const lot = await lotOf(devices);
    const [one, two] = devices as [TestDevice, TestDevice];
    const stranger = testDevice("other-1");
    const posted = [one, testDevice(one.id, one.key), testDevice(two.id, two.key), two, testDevice(two.id), stranger];
    const ids = await postEach(lot, posted);
    await issueBatches(site.issuing, ids);
    const got = await answers(ids);
    expect(codes(got)).toEqual([
      null,
      "already-exists",
      "device-not-in-lot",
      null,
      "device-id-other-key",
      "device-id-outside-namespace",
    ]);
    expect(got[1]!.message).toContain("came before this one");
  });

  it("spend a quota that ends among them in their order, and no further", async () => {
    const small = await lotSite({ party: "technician-g", grant: { quota: 3 }, module: findPkcs11Module() });
    try {
      const devices = testDevices(5);
      const lot = await lotOf(devices, small);
      const ids = await postEach(lot, [...devices, devices[1]!, devices[4]!], small);
      await issueBatches(small.issuing, ids);
      const late = "quota-exceeded";
      expect(codes(await answers(ids, small))).toEqual([null, null, null, late, late, null, late]);
      const { rows } = await small.db.query("SELECT used FROM grant_received WHERE current");
      expect(rows[0].used).toBe(3);
    } finally {
      await small.close();
    }
  });

  it("may run twice at once, in any order and beside each alone", async () => {
    const devices = testDevices(12);
    const lot = await lotOf(devices);
    const ids = await postEach(lot, devices);
    await Promise.all([
      issueBatches(site.issuing, ids),
      issueBatches(site.issuing, ids.toReversed()),
      ...ids.slice(3, 6).map((id) => issueBatch(site.issuing, id)),
      issueBatches(site.issuing, ids.slice(5)),
    ]);
    expect(codes(await answers(ids))).toEqual(Array(12).fill(null));
    const { certified, intents } = await actsOf(lot);
    expect(certified).toHaveLength(12);
    expect(intents).toHaveLength(12);
  });

  it.each(["afterIntents", "afterSigning", "afterStored"] as const)(
    "lose nothing by a crash %s, whoever goes on with them",
    async (point) => {
      const devices = testDevices(4);
      const lot = await lotOf(devices);
      const ids = await postEach(lot, devices);
      const crash = (): never => {
        throw new Error("crash");
      };
      await expect(issueBatches({ ...site.issuing, seam: { [point]: crash } }, ids)).rejects.toThrow("crash");
      for (const id of ids) expect((await batchAnswers(site.db, id)).state).toBe("pending");
      const tbs = await site.db.query<{ device: string; tbs: Buffer }>(
        "SELECT device, tbs FROM issuance WHERE lot = $1",
        [lot],
      );
      expect(tbs.rows).toHaveLength(4);
      const [first, ...rest] = ids as [string, ...string[]];
      await issueBatch(site.issuing, first);
      await issueBatches(site.issuing, rest.slice(0, 2));
      await issueBatch(site.issuing, rest[2]!);
      for (const answer of await answers(ids)) {
        const intended = tbs.rows.find(({ device }) => device === answer.deviceId)!.tbs;
        expect(toBase64(parseCertificate(answer.certificate!).tbs)).toBe(toBase64(intended));
      }
      const acts = await actsOf(lot);
      expect([acts.intents.length, acts.certified.length]).toEqual([4, 4]);
    },
  );
});

describe("gathered batches", () => {
  it("that come at once are a group, and a broken one leaves the others done", async () => {
    const devices = testDevices(21);
    const lot = await lotOf(devices);
    const ids = await postEach(lot, devices);
    await site.db.query("UPDATE batch SET items = '\\x00' WHERE id = $1", [ids[7]]);
    const groups: string[][] = [];
    const gatherer = gathererOf(site.issuing, groups);
    const ended = await Promise.allSettled([...ids, "batch-none"].map((id) => gatherer.run(id)));
    expect(ended.flatMap(({ status }, i) => (status === "rejected" ? [i] : []))).toEqual([7, 21]);
    expect(ended[21]).toMatchObject({ reason: { code: "not-found" } });
    expect(groups.map((group) => group.length).sort((a, b) => b - a)).toEqual([21, ...Array(22).fill(1)]);
    expect(codes(await answers(ids.filter((id) => id !== ids[7])))).toEqual(Array(20).fill(null));
    expect((await batchAnswers(site.db, ids[7]!)).state).toBe("pending");
  });
});
