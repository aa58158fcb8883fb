import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { revocationActivities, type RevocationDeps } from "../../activities/revocation.ts";
import { errorCodeOf } from "../../lib/domain/errors.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCrl } from "../../lib/pki/crl.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { currentCrl, storeCaCertificate } from "../../store/authority.ts";
import { findDevice } from "../../store/devices.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import { stepsOf, takenBack, untoldSteps } from "../../store/revocations.ts";
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
import { SERVER_AUTH, testCertificate } from "../../test/support/test-pki.ts";
import { injectNext, startInjection } from "../custody/inject.ts";
import { keepCrl } from "./crl.ts";
import { orderRevocation, type RevocationOrder } from "./revoke.ts";

const servers: Server[] = [];
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
afterAll(async () => {
  for (const server of servers) server.close();
  await site?.close();
});

const faults: string[] = [];
const work = (hubs: Partial<Pick<RevocationDeps, "notify" | "hub" | "caToken">> = {}) => {
  const activities = revocationActivities({
    ...{ db: site.db, acts: site.acts, actSigner: site.act, caToken: site.token },
    notify: [],
    onFault: (_hub, error) => void faults.push(errorCodeOf(error)),
    ...hubs,
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

/** A hub to be handed lists, by its status for each. */
async function hubThatAnswers(status: () => number): Promise<{ url: string; ca: string }> {
  const ca = await testCertificate("CN=hub infrastructure", { ca: true });
  const san = [{ type: "ip" as const, value: "127.0.0.1" }];
  const { pem: cert, keyPem: key } = await testCertificate("CN=hub", { issuer: ca, eku: [SERVER_AUTH], san });
  const server = createServer({ cert, key }, (request, response) => {
    request.resume().on("end", () => {
      const code = status();
      const body =
        code === 200 ? { taken: true } : { code: "crl-invalid", detail: "not of this hub's time", status: code };
      response.writeHead(code, { "content-type": "application/json" }).end(JSON.stringify(body));
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  servers.push(server);
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, ca: ca.pem };
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

  it("isn't told while a hub refuses it", async () => {
    const { serial } = await certificate(7);
    await order(7);
    const answers = [400, 200];
    const hub = await hubThatAnswers(() => answers.shift() ?? 200);
    expect(await work({ notify: [hub] }).all()).toEqual({ left: true });
    expect(faults).toEqual(["crl-invalid"]);
    const untold = async () => (await untoldSteps(site.db, 10)).map((step) => step.serial);
    expect(await untold()).toEqual([serial]);
    expect(await work({ notify: [hub] }).all()).toEqual({ left: false });
    expect(await untold()).toEqual([]);
  });

  it("ends a certificate for good, however often it was held and lifted before", async () => {
    await order(8, { effect: "hold" });
    await work().all();
    await site.db.query("UPDATE revocation SET step = 1000 WHERE subject = $1", [devices[8]!.id]);
    expect(await order(8, { effect: "lift" })).toMatchObject({ state: "refused", error: { code: "state-conflict" } });
    expect(await order(8)).toMatchObject({ state: "ordered" });
    await work().all();
    const { serial } = await certificate(8);
    expect((await listed()).get(serial)).toBe("keyCompromise");
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
