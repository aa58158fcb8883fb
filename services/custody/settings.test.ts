import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import { fromUtf8, toBase64, toHex, utf8 } from "../../lib/domain/bytes.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { CertificateSettings } from "../../lib/records/certificate-settings.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { batchAnswers } from "../../store/batches.ts";
import { inTransaction } from "../../store/db.ts";
import { readBlob } from "../../store/ledger.ts";
import { storeInbox } from "../../store/messages.ts";
import { pinPeer } from "../../store/parties.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { softhsmDir } from "../../test/support/index.ts";
import { throwawayRoot } from "../../test/support/issuing.ts";
import { lotSite, testDevices, type LotSite, type TestDevice } from "../../test/support/lot-site.ts";
import { submitCsrs } from "../intake/submit.ts";
import { recordBuilt } from "../issuing/built.ts";
import { issueBatch } from "../issuing/certify.ts";
import { openOwnLot } from "./lots.ts";
import { applyMessage } from "./messages.ts";
import { acceptOffer, decideReceipt, recordReceipt } from "./receive.ts";
import { claimRelease, recordRelease } from "./release.ts";
import { readSettings } from "./settings.ts";

const HARDWARE = "1.3.6.1.4.1.99999.7";
const DAY = 86_400_000;

/** One whose CA never expires, and one whose CA does. */
let endless: LotSite;
let expiring: LotSite;
let lots = 0;

beforeAll(async () => {
  const { module } = softhsmDir();
  const root = throwawayRoot({ commonName: "Endless Root" }, undefined, { days: "no-expiry" });
  endless = await lotSite({ party: "technician-z", module, root, days: "no-expiry" });
  expiring = await lotSite({ party: "factory-y", module });
}, 60_000);
afterAll(async () => {
  await endless?.close();
  await expiring?.close();
});

async function open(
  site: LotSite,
  profile: "idevid" | "ldevid",
  certificate: CertificateSettings,
  issuer = site.party,
) {
  const layouts = [{ format: "esp-secure-cert" as const, template: "esp-secure-cert.bin" }];
  return await openOwnLot(site.custody, { id: `set-${++lots}`, slots: 5, issuer, profile, layouts, certificate });
}

async function post(site: LotSite, kind: "built" | "certify", lot: string, devices: readonly TestDevice[]) {
  const csrs = devices.map((device) => device.csr);
  return (await submitCsrs(site.intake, lot, await csrManifest(site.client("station"), kind, lot, csrs), csrs)).id;
}

async function certified(site: LotSite, lot: string, devices: readonly TestDevice[]): Promise<Uint8Array[]> {
  const batch = await post(site, "certify", lot, devices);
  await issueBatch(site.issuing, batch);
  const { answers } = await batchAnswers(site.db, batch);
  return answers.map(({ certificate, message }) => {
    if (certificate === null) throw new Error(String(message));
    return certificate;
  });
}

async function builtAndCertified(profile: "idevid" | "ldevid", settings: CertificateSettings) {
  const { id } = await open(endless, profile, settings);
  const [device] = testDevices(1);
  await recordBuilt(endless.issuing, await post(endless, "built", id, [device!]));
  return { device: device!, der: (await certified(endless, id, [device!]))[0]! };
}

function openssl(der: Uint8Array, ...args: string[]): string {
  return execFileSync("openssl", args, { input: pemEncode("CERTIFICATE", der), encoding: "utf8" });
}

function lifetime(der: Uint8Array): { from: number; to: number } {
  const [, from, to] = /notBefore=(.+)\nnotAfter=(.+)/.exec(openssl(der, "x509", "-noout", "-dates")) ?? [];
  return { from: Date.parse(from!), to: Date.parse(to!) };
}

describe("a lot's choices, as openssl reads its certificates", () => {
  it("a number of days", async () => {
    const { from, to } = lifetime((await builtAndCertified("ldevid", { days: 30 })).der);
    // notAfter is inclusive.
    expect(to - from).toBe(30 * DAY - 1_000);
  });

  it("the profile's own number without one, and no hardware name", async () => {
    const { der } = await builtAndCertified("ldevid", {});
    const { from, to } = lifetime(der);
    expect(to - from).toBe(365 * DAY - 1_000);
    expect(openssl(der, "x509", "-noout", "-text")).not.toContain("Subject Alternative Name");
  });

  it("no expiry, and the hardware's type with the device ID as its number", async () => {
    const { device, der } = await builtAndCertified("idevid", { days: "no-expiry", hardwareType: HARDWARE });
    expect(lifetime(der).to).toBe(Date.parse("9999-12-31T23:59:59Z"));
    const lines = openssl(der, "asn1parse", "-inform", "PEM").split("\n");
    const at = lines.findIndex((line) => line.includes("X509v3 Subject Alternative Name"));
    const offset = /^\s*(\d+):/.exec(lines[at + 1]!)![1]!;
    const san = openssl(der, "asn1parse", "-inform", "PEM", "-strparse", offset);
    expect(san).toMatch(/OBJECT\s+:(1\.3\.6\.1\.5\.5\.7\.8\.4|id-on-hardwareModuleName)\n/);
    expect(san).toContain(`:${HARDWARE}\n`);
    expect(san).toMatch(
      new RegExp(`OCTET STRING\\s+(\\[HEX DUMP\\])?:(${device.id}|${toHex(utf8(device.id)).toUpperCase()})\\n`),
    );
  });
});

describe("settings that can't hold", () => {
  it.each([
    ["more days than the profile allows", "ldevid", { days: 1_097 }],
    ["an LDevID without expiry", "ldevid", { days: "no-expiry" }],
    ["a hardware type outside IDevIDs", "ldevid", { hardwareType: HARDWARE }],
    ["a hardware type that would be read as another", "idevid", { hardwareType: "1.40.5" }],
  ] as const)("%s: the lot isn't opened", async (_what, profile, settings) => {
    await expect(open(endless, profile, settings)).rejects.toMatchObject({ code: "profile-violation" });
  });

  it("no expiry under a CA that expires: the lot isn't opened", async () => {
    await expect(open(expiring, "idevid", { days: "no-expiry" })).rejects.toMatchObject({ code: "profile-violation" });
    await open(expiring, "idevid", { hardwareType: HARDWARE });
  });
});

describe("the act that opens the lot", () => {
  const opened = async (leafHash: string) => {
    const { rows } = await endless.db.query<{ entry: Uint8Array }>(
      "SELECT entry FROM ledger_act WHERE leaf_hash = $1",
      [Buffer.from(leafHash, "hex")],
    );
    return parseEntry(rows[0]!.entry).act;
  };

  it("pins the settings as a blob beside it, and has none where nothing was chosen", async () => {
    const act = await opened((await open(endless, "ldevid", { days: 90 })).ref.leafHash);
    const blob = act.blobs?.find(({ name }) => name === "settings");
    const bytes = await readBlob(endless.db, Buffer.from(blob!.sha256, "hex"));
    expect(fromUtf8(bytes!)).toBe('{"days":90}');
    expect(readSettings(bytes!)).toEqual({ days: 90 });
    const plain = await opened((await open(endless, "ldevid", {})).ref.leafHash);
    expect((plain.blobs ?? []).map(({ name }) => name)).not.toContain("settings");
  });

  it("opens the same lot with the same settings only", async () => {
    const { id } = await open(endless, "ldevid", { days: 90 });
    lots--;
    expect(await open(endless, "ldevid", { days: 90 })).toMatchObject({ id });
    lots--;
    await expect(open(endless, "ldevid", { days: 91 })).rejects.toMatchObject({ code: "already-exists" });
  });
});

it("settings go with a handoff: who issues does it as the builder's lot says", async () => {
  const contact = (site: LotSite) => ({
    ...{ party: site.party, gateway: "https://127.0.0.1:1", publicUrl: "http://127.0.0.1:1", tlsCa: "" },
    ...{ act: toBase64(site.act.spki), origin: site.origin, vkey: "x+00000000+AQ==" },
  });
  const know = (at: LotSite, other: LotSite, direction: "parent" | "child") =>
    inTransaction(at.db, (tx) => {
      const { party, act } = other;
      const peer = { party, direction, contact: contact(other), actSpki: act.spki, actKeyId: keyId(act.spki) };
      return pinPeer(tx, peer);
    });
  await know(expiring, endless, "child");
  await know(endless, expiring, "parent");
  const [device] = testDevices(1);
  const { id: lot } = await open(expiring, "idevid", { days: "no-expiry", hardwareType: HARDWARE }, endless.party);
  await recordBuilt(expiring.issuing, await post(expiring, "built", lot, [device!]));
  const handoff = `${lot}.h1`;
  await claimRelease(expiring.custody, { id: handoff, lot, to: endless.party });
  await recordRelease(expiring.custody, handoff);
  const { rows } = await expiring.db.query<{ body: Uint8Array }>(
    "SELECT body FROM outbox ORDER BY ordinal DESC LIMIT 1",
  );
  const id = randomUUID();
  const numbered = { sender: expiring.party, epoch: 1, sequence: 1, inReplyTo: null };
  const envelope = { envelope: new Uint8Array(1), envelopeSha256: "ab".repeat(32), body: rows[0]!.body };
  await inTransaction(endless.db, (tx) => storeInbox(tx, { id, type: "handoff-release", ...numbered, ...envelope }));
  await applyMessage(endless.custody, id);
  await acceptOffer(endless.custody, handoff);
  await decideReceipt(endless.custody, handoff, []);
  await recordReceipt(endless.custody, handoff);
  const [der] = await certified(endless, lot, [device!]);
  expect(lifetime(der!).to).toBe(Date.parse("9999-12-31T23:59:59Z"));
  expect(openssl(der!, "x509", "-noout", "-text")).toContain("Subject Alternative Name");
});
