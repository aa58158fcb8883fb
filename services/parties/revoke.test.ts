import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { revocationActivities } from "../../activities/revocation.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCrl } from "../../lib/pki/crl.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { currentCrl, storeCaCertificate } from "../../store/authority.ts";
import { findDevice } from "../../store/devices.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import { stepsOf, takenBack } from "../../store/revocations.ts";
import {
  certifyDevices,
  lotSite,
  ownLot,
  testDevices,
  type LotSite,
  type TestDevice,
} from "../../test/support/lot-site.ts";
import { pem } from "../../test/support/issuing.ts";
import { tempDir } from "../../test/support/index.ts";
import { injectNext, startInjection } from "../custody/inject.ts";
import { keepCrl } from "./crl.ts";
import { orderRevocation, type RevocationOrder } from "./revoke.ts";

let site: LotSite;
let devices: TestDevice[];
const LOT = "revoked-lot";
const FINAL: RevocationOrder = { effect: "final", reason: "keyCompromise", by: "operator@z" };

beforeAll(async () => {
  site = await lotSite();
  await storeCaCertificate(site.db, { keyId: keyId(site.ca.spki), role: "ca", certificate: site.ca.der });
  devices = testDevices(12);
  await ownLot(site, LOT, devices.length);
  await certifyDevices(site, LOT, devices);
}, 60_000);
afterAll(() => site?.close());

const told: string[] = [];
const work = () => {
  const activities = revocationActivities({
    ...{ db: site.db, acts: site.acts, actSigner: site.act, caToken: site.token },
    notify: [],
    onFault: (hub) => void told.push(hub),
  });
  return {
    ...activities,
    all: async () => {
      while ((await activities.recordRevocations()).left);
      await activities.publishRevocations();
      return activities.tellHubs();
    },
  };
};
const order = (index: number, what: Partial<RevocationOrder> = {}) =>
  orderRevocation(site.db, { id: devices[index]!.id }, { ...FINAL, ...what });
async function certificate(index: number): Promise<Certificate> {
  const { certificate: der } = (await findDevice(site.db, devices[index]!.id))!;
  return parseCertificate(der!);
}
async function listed(): Promise<Map<string, string>> {
  const crl = parseCrl((await currentCrl(site.db, keyId(site.ca.spki).slice(0, 16)))!.der);
  return new Map([...crl.revoked].map(([serial, { reason }]) => [serial, reason]));
}
async function revokedActs() {
  const { size } = (await readHead(site.db))!;
  const entries = await readEntries(site.db, 0, size);
  return entries.map((entry) => parseEntry(entry).act).filter((act) => act.type === "revoked");
}

describe("a revocation", () => {
  it("is ordered once, an act, and in the CRL; what is asked again is answered as before", async () => {
    const { serial } = await certificate(0);
    const first = await order(0);
    expect(first).toMatchObject({ state: "ordered", target: "device", serials: [serial] });
    expect(await order(0)).toMatchObject({ state: "already", steps: first.steps });
    await work().all();
    await work().all();
    expect(await revokedActs()).toHaveLength(1);
    expect(await revokedActs()).toMatchObject([
      { fields: { effect: "final", reason: "keyCompromise", target: "device" } },
    ]);
    expect(await listed()).toEqual(new Map([[serial, "keyCompromise"]]));
    expect(await order(0, { reason: "superseded" })).toMatchObject({ state: "already", steps: first.steps });
    for (const effect of ["hold", "lift"] as const) {
      expect(await order(0, { effect })).toMatchObject({ state: "refused", error: { code: "state-conflict" } });
    }
  });

  it("is refused for what this site issued nothing to, and says what it would do without doing it", async () => {
    expect(await orderRevocation(site.db, { id: "nobody" }, FINAL)).toMatchObject({ state: "unknown", steps: [] });
    expect(await order(1, { reason: "cACompromise" })).toMatchObject({ state: "refused" });
    expect(await orderRevocation(site.db, { id: devices[1]!.id }, FINAL, true)).toMatchObject({
      state: "ordered",
      steps: [],
    });
    expect(await takenBack(site.db, [devices[1]!.id])).toEqual(new Set());
  });

  it("holds, lifts and holds again, each an act that continues the one before", async () => {
    const { serial } = await certificate(2);
    expect(await order(2, { effect: "lift" })).toMatchObject({ state: "refused" });
    const effects = ["hold", "lift", "hold", "final"] as const;
    const shown = [];
    for (const effect of effects) {
      expect(await order(2, { effect })).toMatchObject({ state: "ordered" });
      await work().all();
      shown.push((await listed()).get(serial));
    }
    expect(shown).toEqual(["certificateHold", undefined, "certificateHold", "keyCompromise"]);
    const acts = (await revokedActs()).filter(({ subject: [about] }) => about!.name === devices[2]!.id);
    const leaves = (await stepsOf(site.db, acts[0]!.fields.certificate.act)).map(({ actLeaf }) => actLeaf);
    expect(acts.map(({ prev: [one] }) => one!.leafHash)).toEqual([
      acts[0]!.fields.certificate.act,
      ...leaves.slice(0, 3),
    ]);
  });

  it("keeps the device out of custody steps from its order on, and no other device", async () => {
    await order(3);
    await startInjection(site.custody, { id: "run-1", lot: LOT });
    for (
      let run = await injectNext(site.custody, "run-1");
      run.state !== "done";
      run = await injectNext(site.custody, "run-1")
    );
    const stages = await Promise.all(devices.map(async ({ id }) => (await findDevice(site.db, id))!.stage));
    expect(stages.map((stage) => stage === "injected")).toEqual(devices.map((_, i) => ![0, 2, 3].includes(i)));
    await work().all();
  });

  it("survives being done twice at once, and a CRL that somebody else was making", async () => {
    const before = await listed();
    const orders = await Promise.all([order(4), order(4), order(5), order(6)]);
    expect(orders.map(({ state }) => state).sort()).toEqual(["already", "ordered", "ordered", "ordered"]);
    await Promise.all([work().all(), work().all(), work().all()]);
    await Promise.all([4, 5, 6].map((index) => order(index)));
    const key = await site.token.caKey("ca");
    await Promise.all([1, 2, 3].map(() => keepCrl(site.db, key, site.ca, { now: new Date() })));
    expect((await listed()).size).toBe(before.size + 3);
    expect(await revokedActs()).toHaveLength((await listed()).size + 3);
    // Half of its time later the next one lists the same.
    const later = new Date(Date.now() + 16 * 86_400_000);
    const renewed = await keepCrl(site.db, key, site.ca, { now: later });
    expect(parseCrl(renewed.der).revoked.size).toBe(before.size + 3);
  });

  it("is what openssl says as well", async () => {
    const dir = tempDir("revoked");
    const crl = (await currentCrl(site.db, keyId(site.ca.spki).slice(0, 16)))!;
    writeFileSync(join(dir, "crl.der"), crl.der);
    const crlPem = execFileSync("openssl", ["crl", "-inform", "DER", "-in", join(dir, "crl.der")]);
    writeFileSync(join(dir, "cas.pem"), Buffer.concat([Buffer.from(pem(site.ca, site.root.certificate)), crlPem]));
    const verify = async (index: number): Promise<string> => {
      const { der } = await certificate(index);
      writeFileSync(join(dir, "leaf.pem"), pem(parseCertificate(der)));
      const at = String(Math.floor(Date.now() / 1000) + 17 * 86_400);
      const args = ["verify", "-crl_check", "-attime", at, "-CAfile", join(dir, "cas.pem"), join(dir, "leaf.pem")];
      try {
        return execFileSync("openssl", args, { stdio: "pipe" }).toString();
      } catch (error) {
        return String((error as { stderr: Buffer }).stderr);
      }
    };
    expect(await verify(0)).toContain("certificate revoked");
    expect(await verify(1)).toContain("OK");
  });
});
