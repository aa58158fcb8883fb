import { afterAll, beforeAll, beforeEach, expect, it } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import { fromBase64 } from "../../lib/domain/bytes.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { batchAnswers, type BatchAnswer } from "../../store/batches.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import {
  lotSite,
  ownLot,
  testDevice,
  testDevices,
  type LotSite,
  type TestDevice,
} from "../../test/support/lot-site.ts";
import { Racer } from "../../test/support/race-process.ts";
import { submitCsrs } from "../intake/submit.ts";
import { recordBuilt } from "./built.ts";

/** Two processes of one site at once, each with its own connections and HSM login: the database alone decides. */

const QUOTA = 50;
const BATCH = 8;
let site: LotSite;
let racers: Racer[];
let lots = 0;

beforeAll(async () => {
  site = await lotSite({ grant: { quota: QUOTA } });
  racers = await Promise.all([0, 1].map(() => Racer.start(site.race)));
});
afterAll(async () => {
  await Promise.all(racers.map((racer) => racer.stop()));
  await site.close();
});
beforeEach(() => site.db.query("UPDATE grant_received SET used = 0"));

async function newLot(slots: number): Promise<string> {
  const lot = `lot-race-${++lots}`;
  await ownLot(site, lot, slots);
  return lot;
}

async function post(lot: string, kind: "built" | "certify", devices: readonly TestDevice[]): Promise<string[]> {
  const station = site.client("station");
  const ids: string[] = [];
  for (let at = 0; at < devices.length; at += BATCH) {
    const csrs = devices.slice(at, at + BATCH).map((device) => device.csr);
    ids.push((await submitCsrs(site.intake, lot, await csrManifest(station, kind, lot, csrs), csrs)).id);
  }
  return ids;
}

async function answers(batches: readonly string[]): Promise<BatchAnswer[]> {
  const all = await Promise.all(batches.map((id) => batchAnswers(site.db, id)));
  expect(all.map(({ state }) => state)).toEqual(all.map(() => "done"));
  return all.flatMap((batch) => batch.answers);
}

async function built(count: number): Promise<{ lot: string; devices: TestDevice[] }> {
  const lot = await newLot(count);
  const devices = testDevices(count);
  for (const id of await post(lot, "built", devices)) await recordBuilt(site.issuing, id);
  return { lot, devices };
}

const both = (kind: "built" | "certify", left: readonly string[], right: readonly string[]) =>
  Promise.all([racers[0]!.run({ kind, batches: left }), racers[1]!.run({ kind, batches: right })]);

const count = (all: readonly BatchAnswer[], code: string | null) => all.filter((one) => one.code === code).length;

async function certifiedActs(...of: string[]) {
  const { size } = (await readHead(site.db))!;
  const acts = (await readEntries(site.db, 0, size)).map((entry) => parseEntry(entry).act);
  return acts.flatMap((act) => (act.type === "certified" && of.includes(act.fields.lot) ? [act] : []));
}

it("two lots under one grant race for the last of its quota, which is spent to the last and no further", async () => {
  const [one, two] = await Promise.all([built(40), built(40)]);
  const [left, right] = await Promise.all([
    post(one.lot, "certify", one.devices),
    post(two.lot, "certify", two.devices),
  ]);
  await both("certify", left, right);
  const all = [...(await answers(left)), ...(await answers(right))];
  expect(count(all, null)).toBe(QUOTA);
  expect(count(all, "quota-exceeded")).toBe(80 - QUOTA);
  const { rows } = await site.db.query("SELECT used FROM grant_received WHERE current");
  expect(rows[0].used).toBe(QUOTA);
  const acts = await certifiedActs(one.lot, two.lot);
  expect(acts).toHaveLength(QUOTA);
  const serials = acts.map((act) => parseCertificate(fromBase64(act.fields.certificate)).serial);
  expect(new Set(serials).size).toBe(QUOTA);
});

it("the same batches run by both processes give each CSR one certificate", async () => {
  const { lot, devices } = await built(40);
  const batches = await post(lot, "certify", devices);
  const reversed = await post(lot, "certify", devices.toReversed());
  await both("certify", [...batches, ...reversed], [...reversed.toReversed(), ...batches.toReversed()]);
  const first = await answers(batches);
  const second = (await answers(reversed)).toReversed();
  const hex = (all: readonly BatchAnswer[]) => all.map(({ certificate }) => Buffer.from(certificate!).toString("hex"));
  expect(hex(second)).toEqual(hex(first));
  expect(new Set(hex(first)).size).toBe(40);
  expect(await certifiedActs(lot)).toHaveLength(40);
  const { rows } = await site.db.query("SELECT used FROM grant_received WHERE current");
  expect(rows[0].used).toBe(40);
});

it("the same CSRs in two lots belong to one of them, and only there are certified", async () => {
  const [one, two] = [await newLot(40), await newLot(40)];
  const devices = testDevices(40);
  const [left, right] = [await post(one, "built", devices), await post(two, "built", devices.toReversed())];
  await both("built", left, right);
  const inOne = await answers(left);
  const inTwo = (await answers(right)).toReversed();
  for (const [i, answer] of inOne.entries()) {
    const codes = [answer.code, inTwo[i]!.code];
    expect(codes.filter((code) => code === null)).toHaveLength(1);
    expect(codes).toContain("already-exists");
  }
  const [a, b] = [await post(one, "certify", devices), await post(two, "certify", devices)];
  await both("certify", a, b);
  const [certifiedInOne, certifiedInTwo] = [await answers(a), await answers(b)];
  for (const i of devices.keys()) {
    const codes = [certifiedInOne[i]!.code, certifiedInTwo[i]!.code];
    expect(codes).toEqual(inOne[i]!.code === null ? [null, "device-not-in-lot"] : ["device-not-in-lot", null]);
  }
  expect(await certifiedActs(one, two)).toHaveLength(40);
});

it("one key under two device IDs, and two keys under one, from two processes: one of each stays", async () => {
  const [one, two] = [await newLot(32), await newLot(32)];
  const devices = testDevices(16);
  const rivals = devices.map((device, i) =>
    i % 2 === 0 ? testDevice(`${device.id}-b`, device.key) : testDevice(device.id),
  );
  const [left, right] = [await post(one, "built", devices), await post(two, "built", rivals)];
  await both("built", left, right);
  const [inOne, inTwo] = [await answers(left), await answers(right)];
  for (const i of devices.keys()) {
    const codes = [inOne[i]!.code, inTwo[i]!.code];
    expect(codes.filter((code) => code === null)).toHaveLength(1);
    expect(codes).toContain(i % 2 === 0 ? "key-other-device-id" : "device-id-other-key");
  }
});

it("two lots' last slots are taken once each", async () => {
  const lot = await newLot(20);
  const [left, right] = [await post(lot, "built", testDevices(16)), await post(lot, "built", testDevices(16))];
  await both("built", left, right);
  const all = [...(await answers(left)), ...(await answers(right))];
  const slots = all.flatMap(({ slot }) => (slot === null ? [] : [slot]));
  expect(slots.toSorted((x, y) => x - y)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  expect(count(all, "slots-exhausted")).toBe(12);
});
