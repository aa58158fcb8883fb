import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, it } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { MessageType } from "../../lib/records/message.ts";
import { inTransaction } from "../../store/db.ts";
import { findDevice, insertDevices } from "../../store/devices.ts";
import { getHandoff } from "../../store/handoffs.ts";
import { storeInbox } from "../../store/messages.ts";
import { pinPeer } from "../../store/parties.ts";
import { softhsmDir } from "../../test/support/index.ts";
import { throwawayRoot } from "../../test/support/issuing.ts";
import { lotSite, ownLot, testDevices, type LotSite, type TestDevice } from "../../test/support/lot-site.ts";
import { submitCsrs } from "../intake/submit.ts";
import { recordBuilt } from "../issuing/built.ts";
import { applyMessage } from "./messages.ts";
import { acceptOffer, decideReceipt, recordReceipt } from "./receive.ts";
import { claimRelease, recordRelease } from "./release.ts";

let y: LotSite;
let z: LotSite;

beforeAll(async () => {
  const { module } = softhsmDir();
  const root = throwawayRoot({ commonName: "Root" });
  y = await lotSite({ party: "factory-y", root, module });
  z = await lotSite({ party: "technician-z", root, module });
  await know(y, z, "child");
  await know(z, y, "parent");
  await ownLot(z, "elsewhere", 10);
}, 60_000);
afterAll(async () => {
  await z?.close();
  await y?.close();
});

async function know(at: LotSite, other: LotSite, direction: "parent" | "child"): Promise<void> {
  const { party, origin, act } = other;
  const contact = {
    party,
    gateway: "https://127.0.0.1:1",
    publicUrl: "http://127.0.0.1:1",
    tlsCa: "",
    act: toBase64(act.spki),
    origin,
    vkey: "x+00000000+AQ==",
  };
  await inTransaction(at.db, (tx) =>
    pinPeer(tx, { party, direction, contact, actSpki: act.spki, actKeyId: keyId(act.spki) }),
  );
}

/** Builds devices at Y and brings their handoff to Z, checked and open. */
async function offer(lot: string, devices: readonly TestDevice[]): Promise<string> {
  await ownLot(y, lot, 10, z.party);
  const csrs = devices.map((device) => device.csr);
  const batch = await submitCsrs(y.intake, lot, await csrManifest(y.client("station"), "built", lot, csrs), csrs);
  await recordBuilt(y.issuing, batch.id);
  const id = `${lot}.h1`;
  await claimRelease(y.custody, { id, lot, to: z.party });
  await recordRelease(y.custody, id);
  const { rows } = await y.db.query<{ id: string; type: MessageType; body: Uint8Array; ordinal: number }>(
    "UPDATE outbox SET state = 'delivered' WHERE state = 'queued' RETURNING id, type, body, ordinal",
  );
  const { ordinal, ...sent } = rows[0]!;
  const message = { ...sent, sender: y.party, epoch: 1, sequence: ordinal, inReplyTo: null };
  await inTransaction(z.db, (tx) =>
    storeInbox(tx, { ...message, envelope: new Uint8Array(1), envelopeSha256: randomUUID() }),
  );
  await applyMessage(z.custody, sent.id);
  expect(await acceptOffer(z.custody, id)).toBe("open");
  return id;
}

async function holdAtZ(lot: string, slot: number, device: { id: string; spkiSha256: string }): Promise<void> {
  const prev = { origin: z.origin, leafHash: "0".repeat(64) };
  await inTransaction(z.db, (tx) =>
    insertDevices(tx, [{ ...device, lot, slot, csrSha256: "0".repeat(64), stage: "received", prev }]),
  );
}

it.each([
  ["known here", "clash-1", ({ id }: TestDevice) => holdAtZ("elsewhere", 1, { id, spkiSha256: "1".repeat(64) })],
  [
    "whose key is known here",
    "clash-2",
    ({ key }: TestDevice) => holdAtZ("elsewhere", 2, { id: "dev-other", spkiSha256: keyId(key.spki) }),
  ],
  ["whose slot is taken", "clash-3", () => holdAtZ("clash-3", 2, { id: "dev-two", spkiSha256: "3".repeat(64) })],
])("lets the operator answer again and keep out a device %s", async (_what, lot, clash) => {
  const devices = testDevices(3);
  const [first, second] = devices as [TestDevice, TestDevice, TestDevice];
  const id = await offer(lot, devices);
  await clash(second);
  await expect(decideReceipt(z.custody, id, [])).rejects.toMatchObject({ code: "custody-conflict" });
  expect(await getHandoff(z.db, id)).toMatchObject({ state: "open", discrepancies: null });

  await decideReceipt(z.custody, id, [`${second.id}: known here`]);
  await recordReceipt(z.custody, id);
  expect(await getHandoff(z.db, id)).toMatchObject({ state: "received", discrepancies: [`${second.id}: known here`] });
  expect(await findDevice(z.db, first.id)).toMatchObject({ stage: "received", slot: 1, handoff: id });
  expect((await findDevice(z.db, second.id))?.handoff ?? null).toBeNull();
});
