import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { HubChangeActivities } from "../contracts/hubs.ts";
import { sha256Hex } from "../lib/domain/hash.ts";
import type { Certificate } from "../lib/pki/certificate.ts";
import { keyId } from "../lib/pki/spki.ts";
import { parseHubProof } from "../lib/records/hub-proof.ts";
import { signVerification, verificationIntent } from "../services/hub/verification.ts";
import { Acts, createLedger } from "../services/ledger/index.ts";
import { parseEntry } from "../lib/records/statement.ts";
import { setCeremony, storeCaCertificate, storeCeremony } from "../store/authority.ts";
import type { Db } from "../store/db.ts";
import { listHubLineCas } from "../store/hub-lines.ts";
import { listHubOffers } from "../store/hub-offers.ts";
import { AZURE, recorderHub, startAzureRecorder, type AzureRecorder } from "../test/support/azure-recorder.ts";
import { selfSignedRoot } from "../test/support/child-site.ts";
import { softhsmDir } from "../test/support/index.ts";
import { makeTestParty, siteDatabase, type TestParty } from "../test/support/parties.ts";
import { hubLineActivities } from "./hub-line.ts";

/** Company-X's offline root at Azure: the codes fetched, signed where the token is, handed in. */

let azure: AzureRecorder;
let db: Db;
let party: TestParty;
let root: Certificate;
let acts: Acts;
let run: HubChangeActivities;
const NAME = "company-x-root";
const change = (kind: "offer-ca" | "prove-ca") => run.changeHub({ hub: "azure", change: { kind, subject: NAME } });

beforeAll(async () => {
  azure = await startAzureRecorder();
  party = await makeTestParty(softhsmDir(), "company-x");
  root = await selfSignedRoot(party);
  db = await siteDatabase();
  const { identity } = party;
  await createLedger({ db, origin: identity.origin, signer: identity.log });
  acts = new Acts({ db, origin: identity.origin, party: identity.party });
  const hubs = new Map([["azure", recorderHub(azure)]]);
  run = hubLineActivities({ db, identity, acts, caToken: undefined, hubs });
});
afterAll(async () => {
  acts?.close();
  await Promise.all([db?.end(), party?.close(), azure?.close()]);
});
beforeEach(() => {
  azure.requests.length = 0;
  azure.faults.length = 0;
});

/** What `ceremony prove` does with the file. */
async function sign(): Promise<void> {
  for (const { code } of await listHubOffers(db, "azure", NAME)) {
    const id = verificationIntent(root, code);
    await signVerification(db, party.ca, root, { id, code, request: {}, now: new Date() });
  }
}
const verified = () => [...azure.certificates.values()].map(({ properties }) => properties["isVerified"]);
const codes = async () => (await listHubOffers(db, "azure", NAME)).map(({ code }) => code);

describe("an offline root at Azure", () => {
  it("isn't there before its ceremony", async () => {
    await expect(change("offer-ca")).rejects.toMatchObject({ type: "usage" });
    expect(azure.requests).toEqual([]);
  });

  it("is uploaded, and its codes wait for the root's token, the last ones given", async () => {
    await storeCaCertificate(db, { keyId: keyId(root.spki), role: "root", certificate: root.der });
    azure.faults.push({
      on: ({ method, path }) => method === "POST" && path.endsWith("/generateVerificationCode"),
      after: true,
      answer: "cut",
    });
    await expect(change("offer-ca")).rejects.toMatchObject({ type: "component-unreachable", nonRetryable: false });
    expect(await change("offer-ca")).toMatchObject({ name: NAME, state: "unverified" });
    const first = await codes();
    expect(await change("offer-ca")).toMatchObject({ state: "unverified" });
    const second = await codes();
    expect([first.length, second.length, new Set([...first, ...second]).size]).toEqual([2, 2, 4]);
    expect(verified()).toEqual([false, false]);
    const places = (await listHubOffers(db, "azure", NAME)).map(({ place }) => place);
    expect(places).toEqual([`IoT Hub ${AZURE.hub}`, `provisioning service ${AZURE.dps}`]);
  });

  it("isn't handed in before its ceremony is in the ledger, nor before every code is signed", async () => {
    await expect(change("prove-ca")).rejects.toMatchObject({ type: "state-conflict", message: /isn't recorded/ });
    const document = new Uint8Array([1]);
    await storeCeremony(db, { id: "company-x", document, sha256: sha256Hex(document) });
    const act = await acts.recordSigned(
      {
        type: "recovered",
        workflowId: "test",
        stepKey: "ceremony",
        subject: [{ name: "company-x", digest: { sha256: "0".repeat(64) } }],
        // Any act that stands in this ledger.
        fields: { restored: { size: 0, root: "0".repeat(64) }, rebuilt: { size: 0, root: "0".repeat(64) } },
      },
      party.identity.act,
    );
    const ref = { origin: party.identity.origin, leafHash: act.leafHash };
    await setCeremony(db, sha256Hex(document), { state: "done", act: ref });
    azure.requests.length = 0;
    await expect(change("prove-ca")).rejects.toMatchObject({ type: "state-conflict", message: /ceremony prove/ });
    expect(azure.requests).toEqual([]);
  });

  it("says so when a code that was signed has been replaced meanwhile", async () => {
    await sign();
    await change("offer-ca");
    await expect(change("prove-ca")).rejects.toMatchObject({ type: "state-conflict", message: /ceremony prove/ });
    await sign();
    // By somebody else, so that this site doesn't know.
    for (const entry of azure.certificates.values()) if (entry.name === NAME) entry.code = "0".repeat(48);
    await expect(change("prove-ca")).rejects.toMatchObject({ type: "hub-refused" });
    expect(verified()).toEqual([false, false]);
  });

  it("is verified by what the root's key signed, once, through a lost answer, and recorded", async () => {
    await change("offer-ca");
    await sign();
    azure.faults.push({
      on: ({ method, path }) => method === "POST" && path.includes("/IotHubs/") && path.endsWith("/verify"),
      after: true,
      answer: "cut",
    });
    await expect(change("prove-ca")).rejects.toMatchObject({ type: "component-unreachable" });
    expect(await change("prove-ca")).toMatchObject({ name: NAME, state: "registered" });
    expect(verified()).toEqual([true, true]);
    expect(await listHubLineCas(db, { hub: "azure", line: NAME })).toMatchObject([{ name: NAME, state: "registered" }]);
    const { rows } = await db.query<{ entry: Uint8Array }>(
      "SELECT entry FROM ledger_act WHERE type = 'hub-registered'",
    );
    const recorded = rows.map(({ entry }) => parseEntry(entry).act.fields as { hub: string; caSha256: string });
    expect(recorded.map(({ hub }) => hub).sort()).toEqual([
      `azure/IoT Hub ${AZURE.hub}/${NAME}`,
      `azure/provisioning service ${AZURE.dps}/${NAME}`,
    ]);
    expect(recorded.every(({ caSha256 }) => caSha256 === sha256Hex(root.der))).toBe(true);
    // Asked again there is nothing to sign, and nothing more is recorded.
    expect(await change("offer-ca")).toMatchObject({ state: "verified" });
    expect(await codes()).toEqual([]);
    expect(await change("prove-ca")).toMatchObject({ state: "registered" });
    // Removed there by hand, and registered again with other codes: its first registration stays recorded.
    azure.certificates.clear();
    expect(await change("offer-ca")).toMatchObject({ state: "unverified" });
    await sign();
    expect(await change("prove-ca")).toMatchObject({ state: "registered" });
    expect(verified()).toEqual([true, true]);
    expect((await db.query("SELECT 1 FROM ledger_act WHERE type = 'hub-registered'")).rows).toHaveLength(2);
  });
});

describe("the file that a hub's codes are carried in", () => {
  const proof = {
    ...{ schema: "countersign/hub-proof/v1", party: "company-x", hub: "azure", name: NAME, caSha256: "0".repeat(64) },
    codes: [{ place: "IoT Hub line-1", code: "A".repeat(48) }],
  };
  const read = (value: unknown) =>
    parseHubProof(Buffer.from(typeof value === "string" ? value : JSON.stringify(value)));

  it("is taken as it was written, and in no other form", () => {
    expect(read(proof)).toEqual(proof);
    for (const other of [
      "",
      "[]",
      { ...proof, more: 1 },
      { ...proof, codes: [] },
      { ...proof, codes: [{ place: "x", code: "CN=x" }] },
      { ...proof, caSha256: "0" },
      { ...proof, hub: "../x" },
    ]) {
      expect(() => read(other)).toThrowError(expect.objectContaining({ code: "input-invalid" }) as Error);
    }
    expect(() => read(" ".repeat(20_000))).toThrowError(expect.objectContaining({ code: "input-too-large" }) as Error);
  });
});
