import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, expect, it } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import { answer, introduce } from "../../apps/device/tpm/attest.ts";
import { HIERARCHY, Tpm } from "../../apps/device/tpm/tpm.ts";
import { AK_ATTRIBUTES, EK_PLACES } from "../../apps/device/tpm/templates.ts";
import { fromBase64, fromHex, toBase64, toHex } from "../../lib/domain/bytes.ts";
import { assembleCsr } from "../../lib/pki/csr.ts";
import * as der from "../../lib/pki/der-write.ts";
import { buildName } from "../../lib/pki/name.ts";
import { OID } from "../../lib/pki/oids.ts";
import { attestationRecord } from "../../lib/records/attestation.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { batchAnswers } from "../../store/batches.ts";
import { inTransaction } from "../../store/db.ts";
import { readBlob } from "../../store/ledger.ts";
import { lotSite, ownLot, testDevices, type LotSite } from "../../test/support/lot-site.ts";
import { softTpm, type SoftTpm } from "../../test/support/swtpm.ts";
import { akPublic, answerOf, DEVICE_KEY, tpmDevice, type TpmDevice } from "../../test/support/tpm-device.ts";
import { submitCsrs } from "../intake/submit.ts";
import { recordBuilt } from "../issuing/built.ts";
import { issueBatch } from "../issuing/certify.ts";
import { lotWorkflowId } from "../issuing/context.ts";
import { applyAct } from "../recovery/effects.ts";
import { type Challenge, challengeDevice, recordAttestation } from "./attest.ts";

let site: LotSite;
let soft: SoftTpm;
let tpm: Tpm;
/** One of another vendor. */
let foreign: SoftTpm;
let foreignTpm: Tpm;
let ekCertificates: string[];
let lots = 0;

beforeAll(async () => {
  [site, soft, foreign] = await Promise.all([lotSite(), softTpm(), softTpm()]);
  [tpm, foreignTpm] = (await Promise.all([soft.tcti, foreign.tcti].map((tcti) => Tpm.open(tcti)))) as [Tpm, Tpm];
  ekCertificates = [(await tpm.nvRead(0x01c00002))!, soft.vendor.issuer()].map(toBase64);
}, 60_000);
afterAll(async () => {
  for (const one of [tpm, foreignTpm]) await one?.close();
  for (const one of [soft, foreign]) await one?.stop();
  await site?.close();
});

async function openLot(vendorRoots: readonly Uint8Array[] = [soft.vendor.root()]): Promise<string> {
  const id = `att-${++lots}`;
  await ownLot(site, id, 10, undefined, { attestation: { kind: "tpm2", vendorRoots: vendorRoots.map(toBase64) } });
  return id;
}

async function post(kind: "built" | "certify", lot: string, csr: Uint8Array) {
  const { id } = await submitCsrs(site.intake, lot, await csrManifest(site.client("station"), kind, lot, [csr]), [csr]);
  await (kind === "built" ? recordBuilt : issueBatch)(site.issuing, id);
  return (await batchAnswers(site.db, id)).answers[0]!;
}

async function built(lot: string, attributes = DEVICE_KEY): Promise<TpmDevice> {
  const device = await tpmDevice(tpm, attributes);
  expect(await post("built", lot, device.csr)).toMatchObject({ code: null });
  return device;
}

const STATION = "5a".repeat(32);
const by = ({ id }: Challenge, asker = STATION) => ({ id, asker });

const challenged = async (lot: string, { id: deviceId }: TpmDevice, asker = STATION) =>
  challengeDevice(site.custody, lot, asker, { deviceId, ekCertificates, akPublic: await akPublic(tpm) });

const refused = (code: string) => expect.objectContaining({ code });

it("certifies a device once its TPM has certified its key, and logs the evidence", async () => {
  const lot = await openLot();
  const device = await built(lot);
  expect(await post("certify", lot, device.csr)).toMatchObject({ code: "attestation-required" });

  const challenge = await challenged(lot, device);
  const { evidence } = await recordAttestation(
    site.custody,
    lot,
    by(challenge),
    await answerOf(tpm, device, challenge),
  );
  expect(await post("certify", lot, device.csr)).toMatchObject({ code: null, certificate: expect.anything() });

  const entry = (await site.acts.find(lotWorkflowId(lot), `attested/${device.id}`))!;
  const { act } = parseEntry(entry.entry);
  expect(act).toMatchObject({
    type: "attested",
    fields: {
      lot,
      evidence,
      activated: true,
      tpm: { manufacturer: "id:00001014", model: "swtpm" },
      clock: { safe: true },
    },
  });
  const stored = attestationRecord.parse(
    JSON.parse(Buffer.from((await readBlob(site.db, fromHex(evidence)))!).toString()),
  );
  expect(stored).toMatchObject({ deviceId: device.id, lot, nonce: toHex(challenge.nonce) });
  const certified = await site.acts.find(lotWorkflowId(lot), `certified/ldevid/${device.id}`);
  expect(parseEntry(certified!.entry).act.prev).toEqual([{ origin: site.origin, leafHash: entry.leafHash }]);
  await expect(challenged(lot, device)).rejects.toMatchObject({ code: "already-exists" });
});

it("opens a credential for an endorsement key on P-384", async () => {
  const lot = await openLot();
  const device = await built(lot);
  const [, , high] = EK_PLACES;
  const { ekCertificate, akPublic: ak, ...introduced } = await introduce(tpm, [high!]);
  await tpm.flushAll();
  const ask = { deviceId: device.id, ekCertificates: [ekCertificate, soft.vendor.issuer()].map(toBase64) };
  const challenge = await challengeDevice(site.custody, lot, STATION, { ...ask, akPublic: toBase64(ak) });
  const load = async () => {
    const key = await tpm.createPrimary(HIERARCHY.owner, device.template);
    return { key, auth: new Uint8Array(), parents: [] };
  };
  const given = await answer(tpm, { ...introduced, ekCertificate, akPublic: ak }, challenge, load);
  await tpm.flushAll();
  const { secret, key, attest, signature } = given;
  const { evidence } = await recordAttestation(site.custody, lot, by(challenge), {
    secret: toBase64(secret),
    akParents: [],
    key: { public: toBase64(key.publicArea), parents: [] },
    attest: toBase64(attest),
    signature: toBase64(signature),
  });
  expect(evidence).toMatch(/^[0-9a-f]{64}$/);
});

it("comes back from the ledger where a database was set back", async () => {
  const lot = await openLot();
  const device = await built(lot);
  const challenge = await challenged(lot, device);
  await recordAttestation(site.custody, lot, by(challenge), await answerOf(tpm, device, challenge));
  const { entry, leafHash } = (await site.acts.find(lotWorkflowId(lot), `attested/${device.id}`))!;
  const builtAct = (await site.acts.find(lotWorkflowId(lot), `built/${device.id}`))!;
  const prev = JSON.stringify({ origin: site.origin, leafHash: builtAct.leafHash });
  await site.db.query("DELETE FROM attestation WHERE device = $1", [device.id]);
  await site.db.query("UPDATE device SET prev = $2 WHERE id = $1", [device.id, prev]);
  expect(await post("certify", lot, device.csr)).toMatchObject({ code: "attestation-required" });

  const logged = { act: parseEntry(entry).act, entry, leafHash };
  const context = { party: site.party, imagesDir: "", blob: async () => new Uint8Array() };
  expect(await inTransaction(site.db, (tx) => applyAct(tx, logged, context))).toBe(true);
  expect(await post("certify", lot, device.csr)).toMatchObject({ code: null });
  const certified = await site.acts.find(lotWorkflowId(lot), `certified/ldevid/${device.id}`);
  expect(parseEntry(certified!.entry).act.prev).toEqual([{ origin: site.origin, leafHash }]);
});

it("takes one answer a challenge, good or bad, and in time", async () => {
  const lot = await openLot();
  const device = await built(lot);
  const first = await challenged(lot, device);
  const answer = await answerOf(tpm, device, first);
  const bad = { ...answer, secret: toBase64(randomBytes(32)) };
  await expect(recordAttestation(site.custody, lot, by(first), bad)).rejects.toEqual(
    refused("attestation-not-activated"),
  );
  await expect(recordAttestation(site.custody, lot, by(first), answer)).rejects.toEqual(
    refused("attestation-replayed"),
  );

  // The old nonce's evidence for a new challenge, whose credential the TPM did open.
  const second = await challenged(lot, device);
  const { secret } = await answerOf(tpm, device, second);
  await expect(recordAttestation(site.custody, lot, by(second), { ...answer, secret })).rejects.toEqual(
    refused("attestation-replayed"),
  );

  const late = await challenged(lot, device);
  const lateAnswer = await answerOf(tpm, device, late);
  await site.db.query("UPDATE attestation_challenge SET expires = now() - interval '1 ms' WHERE id = $1", [late.id]);
  await expect(recordAttestation(site.custody, lot, by(late), lateAnswer)).rejects.toEqual(
    refused("attestation-expired"),
  );

  // Of a station's challenges the last counts.
  const replaced = await challenged(lot, device);
  const current = await challenged(lot, device);
  const replacedAnswer = await answerOf(tpm, device, replaced);
  await expect(recordAttestation(site.custody, lot, by(replaced), replacedAnswer)).rejects.toEqual(
    refused("attestation-unasked"),
  );
  const answers = await answerOf(tpm, device, current);
  const both = await Promise.allSettled(
    [answers, answers].map((one) => recordAttestation(site.custody, lot, by(current), one)),
  );
  expect(both.map((one) => one.status).toSorted()).toEqual(["fulfilled", "rejected"]);
  expect(await post("certify", lot, device.csr)).toMatchObject({ code: null });
});

it("leaves a station's challenge to that station, whoever else asks for the device", async () => {
  const lot = await openLot();
  const device = await built(lot);
  const [first, other] = [await challenged(lot, device), "0b".repeat(32)];
  const answer = await answerOf(tpm, device, first);
  await challenged(lot, device, other);
  await expect(recordAttestation(site.custody, lot, by(first, other), answer)).rejects.toEqual(
    refused("attestation-unasked"),
  );
  const foreignLot = recordAttestation(site.custody, await openLot(), by(first), answer);
  await expect(foreignLot).rejects.toEqual(refused("attestation-unasked"));
  expect(await recordAttestation(site.custody, lot, by(first), answer)).toMatchObject({ deviceId: device.id });
});

it("doesn't take an attestation that comes in the CSR, and says so", async () => {
  const lot = await openLot();
  const { id, key } = testDevices(1)[0]!;
  const bundle = der.sequence(der.sequence(der.sequence(der.oid("2.23.133.20.1"), der.octetString(randomBytes(40)))));
  const attribute = der.sequence(der.oid(OID.attestation), der.setOf(bundle));
  const name = buildName({ commonName: id });
  const info = der.sequence(der.integer(0), name, key.spki, der.explicit(0, attribute));
  const csr = assembleCsr(info, key.algorithm, key.sign(info));
  expect(await post("built", lot, csr)).toMatchObject({ code: null });
  const { code, message } = await post("certify", lot, csr);
  expect(code).toBe("attestation-required");
  expect(message).toMatch(/the one in its CSR \(id-aa-attestation\) isn't taken/);
});

it("refuses another key, one that could leave, and spoiled evidence", async () => {
  const lot = await openLot();
  const [device, other] = [await built(lot), await built(lot)];
  const forDevice = await challenged(lot, device);
  const ofOther = await answerOf(tpm, { ...device, template: other.template }, forDevice);
  await expect(recordAttestation(site.custody, lot, by(forDevice), ofOther)).rejects.toEqual(
    refused("attestation-other-key"),
  );

  const exportable = await built(lot, DEVICE_KEY & ~0x12);
  const challenge = await challenged(lot, exportable);
  const answer = await answerOf(tpm, exportable, challenge);
  await expect(recordAttestation(site.custody, lot, by(challenge), answer)).rejects.toEqual(
    refused("attestation-key-exportable"),
  );

  const spoilt = await challenged(lot, device);
  const good = await answerOf(tpm, device, spoilt);
  const attest = fromBase64(good.attest);
  attest[attest.length >> 1]! ^= 1;
  await expect(recordAttestation(site.custody, lot, by(spoilt), { ...good, attest: toBase64(attest) })).rejects.toEqual(
    refused("attestation-signature-invalid"),
  );
  expect(await post("certify", lot, device.csr)).toMatchObject({ code: "attestation-required" });
});

it("refuses keys of another vendor, of another TPM, and ones that sign anything", async () => {
  const lot = await openLot();
  const device = await built(lot);
  const ask = { deviceId: device.id, ekCertificates, akPublic: await akPublic(tpm) };
  const theirs = [(await foreignTpm.nvRead(0x01c00002))!, foreign.vendor.issuer()].map(toBase64);
  await expect(challengeDevice(site.custody, lot, STATION, { ...ask, ekCertificates: theirs })).rejects.toEqual(
    refused("attestation-ek-untrusted"),
  );
  const unrestricted = await akPublic(tpm, AK_ATTRIBUTES & ~(1 << 16));
  await expect(challengeDevice(site.custody, lot, STATION, { ...ask, akPublic: unrestricted })).rejects.toEqual(
    refused("attestation-ak-unfit"),
  );

  // An attestation key in another TPM than the endorsed one: neither opens the credential.
  const foreignAk = await akPublic(foreignTpm);
  const challenge = await challengeDevice(site.custody, lot, STATION, { ...ask, akPublic: foreignAk });
  await expect(answerOf(tpm, device, challenge)).rejects.toMatchObject({ code: "hsm-unavailable" });
  await expect(answerOf(foreignTpm, device, challenge)).rejects.toMatchObject({ code: "hsm-unavailable" });
  const guessed = {
    ...(await answerOf(tpm, device, await challenged(lot, device))),
    secret: toBase64(randomBytes(32)),
  };
  const again = await challengeDevice(site.custody, lot, STATION, { ...ask, akPublic: foreignAk });
  await expect(recordAttestation(site.custody, lot, by(again), guessed)).rejects.toEqual(
    refused("attestation-not-activated"),
  );
});

it("asks only where the lot does, for devices that it has, with real roots", async () => {
  const [plain] = testDevices(1);
  const lot = `att-${++lots}`;
  await ownLot(site, lot, 5);
  expect(await post("built", lot, plain!.csr)).toMatchObject({ code: null });
  const ask = { deviceId: plain!.id, ekCertificates, akPublic: await akPublic(tpm) };
  await expect(challengeDevice(site.custody, lot, STATION, ask)).rejects.toEqual(refused("attestation-unasked"));
  expect(await post("certify", lot, plain!.csr)).toMatchObject({ code: null });
  await expect(challengeDevice(site.custody, await openLot(), STATION, ask)).rejects.toEqual(
    refused("device-not-in-lot"),
  );
  await expect(openLot([soft.vendor.issuer()])).rejects.toEqual(refused("profile-violation"));
  await expect(openLot([randomBytes(40)])).rejects.toEqual(refused("profile-violation"));
});
