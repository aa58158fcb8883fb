import { fromUtf8, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { inclusionProofs, leafHash } from "../../lib/ledger/tree.ts";
import type { ActRef } from "../../lib/records/primitives.ts";
import { installItem } from "../../lib/records/manifest.ts";
import {
  answeredItems,
  finishBatches,
  getBatch,
  insertResults,
  lockBatch,
  type Batch,
  type ItemResult,
} from "../../store/batches.ts";
import { inTransaction } from "../../store/db.ts";
import { advanceDevices, lockForNextAct, type Device } from "../../store/devices.ts";
import { insertInstallations, installedIn } from "../../store/installations.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import { releasedDevices } from "../../store/issuance.ts";
import { storeBlob } from "../../store/ledger.ts";
import { getLot } from "../../store/lots.ts";
import { takenBack } from "../../store/revocations.ts";
import { INCLUSION_TIMEOUT_MS, lotWorkflowId } from "../issuing/context.ts";
import { refusal } from "../issuing/items.ts";
import { nodeSha256, retryKeyOf, type ActDraft } from "../ledger/index.ts";
import { revokedError, type CustodyContext } from "./context.ts";
import { imageFaults } from "./read-back.ts";

interface Item {
  readonly batch: string;
  readonly index: number;
  readonly deviceId: string;
  readonly place: string;
  readonly time: string;
  readonly path: string[];
}

/**
 * Records what a technician installed: one `installed` line record a device that is in custody here and whose
 * certificate was released, and whose image, where this site made one, still holds its chain.
 * Safe to run again after any failure, and beside itself.
 * @throws CountersignError `not-found`, and what the database or the ledger throws
 */
export async function recordInstallations(context: CustodyContext, batchId: string): Promise<void> {
  const { db, acts } = context;
  const batch = await getBatch(db, batchId);
  if (batch.state === "done") return;
  const [lot, grant] = await Promise.all([getLot(db, batch.lot), findCurrentGrant(db)]);
  const items = readItems(batch);
  const faults = await imageFaults(
    context,
    lot,
    items.map(({ deviceId }) => deviceId),
  );
  const accepted = await inTransaction(db, async (tx) => {
    if ((await lockBatch(tx, batchId)) === "done") return [];
    const answered = await answeredItems(tx, [batchId]);
    const open = items.filter((item) => !answered(item));
    const ids = open.map((item) => item.deviceId);
    const devices = new Map((await lockForNextAct(tx, ids)).map((device) => [device.id, device]));
    const released = await releasedDevices(tx, lot.profile.name, ids);
    const before = await installedIn(tx, ids);
    const revoked = await takenBack(tx, ids);
    const fresh: { item: Item; device: Device }[] = [];
    const again: Item[] = [];
    const refused: ItemResult[] = [];
    const seen = new Set<string>();
    for (const item of open) {
      try {
        const device = devices.get(item.deviceId);
        if (before.get(item.deviceId) === batchId) again.push(item);
        else {
          const twice = seen.has(item.deviceId) || before.has(item.deviceId);
          const installable = assertInstallable(item, device, batch.lot, released, twice);
          const fault = revoked.has(item.deviceId) ? revokedError() : faults.get(item.deviceId);
          if (fault !== undefined) throw fault;
          fresh.push({ item, device: installable });
        }
        seen.add(item.deviceId);
      } catch (error) {
        refused.push(refusal(item, error, devices.has(item.deviceId) ? item.deviceId : undefined));
      }
    }
    if (fresh.length > 0) await storeBlob(tx, Buffer.from(batch.manifestSha256, "hex"), batch.manifest);
    const records = await acts.recordLines(
      tx,
      fresh.map(({ item, device }) => draft(batch, grant?.ref, item, device)),
    );
    await insertInstallations(
      tx,
      batchId,
      fresh.map(({ item }, i) => ({
        device: item.deviceId,
        technician: batch.keyId,
        place: item.place,
        time: item.time,
        leafHash: records[i]!.leafHash,
      })),
    );
    await advanceDevices(
      tx,
      "installed",
      acts.origin,
      fresh.map(({ item }, i) => ({ id: item.deviceId, leafHash: records[i]!.leafHash })),
    );
    await insertResults(tx, refused);
    return [...fresh.map(({ item }) => item), ...again];
  });
  const keys = accepted.map((item) => retryKeyOf(acts.origin, lotWorkflowId(batch.lot), `installed/${item.deviceId}`));
  await acts.waitIncluded(keys, { timeoutMs: INCLUSION_TIMEOUT_MS });
  await inTransaction(db, async (tx) => {
    await insertResults(
      tx,
      accepted.map(({ batch, index, deviceId: device }) => ({ batch, index, device })),
    );
    await finishBatches(tx, [batchId]);
  });
}

function readItems(batch: Batch): Item[] {
  const items = batch.items.map((bytes) => JSON.parse(fromUtf8(bytes)) as [string, string, string]);
  const { paths } = inclusionProofs(
    items.map((item) => leafHash(installItem(...item), nodeSha256)),
    nodeSha256,
  );
  return items.map(([deviceId, place, time], index) => ({
    batch: batch.id,
    index,
    deviceId,
    place,
    time,
    path: paths[index]!.map(toHex),
  }));
}

function assertInstallable(
  { deviceId }: Item,
  device: Device | undefined,
  lot: string,
  released: ReadonlySet<string>,
  twice: boolean,
): Device {
  if (device === undefined || device.lot !== lot) {
    throw new CountersignError("device-not-in-lot", `device ${deviceId} is not in lot ${lot} here`);
  }
  if (!device.held) {
    throw new CountersignError("custody-conflict", `device ${deviceId} was handed on: its new holder installs it`);
  }
  if (twice) throw new CountersignError("already-exists", `the installation of device ${deviceId} is recorded already`);
  if (!released.has(deviceId)) {
    throw new CountersignError("state-conflict", `device ${deviceId} has no certificate yet: certify it first`);
  }
  return device;
}

function draft(batch: Batch, grant: ActRef | undefined, item: Item, device: Device): ActDraft<"installed"> {
  return {
    type: "installed",
    workflowId: lotWorkflowId(batch.lot),
    stepKey: `installed/${item.deviceId}`,
    subject: [{ name: item.deviceId, digest: { sha256: device.spkiSha256 } }],
    ...(grant === undefined ? {} : { grant }),
    prev: [device.prev],
    fields: {
      lot: batch.lot,
      slot: device.slot,
      technician: batch.keyId,
      intake: { kind: "manifest", digest: batch.manifestSha256, index: item.index, path: item.path },
      place: item.place,
      time: item.time,
    },
  };
}
