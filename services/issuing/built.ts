import { CountersignError } from "../../lib/domain/errors.ts";
import { toBase64 } from "../../lib/domain/bytes.ts";
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
import { insertDevices, lockDevices } from "../../store/devices.ts";
import { findCurrentGrant, type CurrentGrant } from "../../store/grants.ts";
import { storeBlob } from "../../store/ledger.ts";
import { getLot, lockOpenLot, lockSlots, takeSlots } from "../../store/lots.ts";
import { retryKeyOf, type ActDraft } from "../ledger/index.ts";
import { admitBuilt, known } from "./admission.ts";
import { inTransactionWithRetry, LostRace } from "./attempts.ts";
import { builtStep, lotWorkflowId, waitForLedger, type IssuingContext, type OnProgress } from "./context.ts";
import { checkItems, refusal, type CheckedItem } from "./items.ts";

/**
 * Records what a station built: one slot and one `built` line record a device, all of a batch in one transaction.
 * Safe to run again after any failure, and beside itself.
 * @throws CountersignError `not-found`, and what the database or the ledger throws
 */
export async function recordBuilt(context: IssuingContext, batchId: string, onProgress?: OnProgress): Promise<void> {
  const { db, acts } = context;
  const batch = await getBatch(db, batchId);
  if (batch.state === "done") return;
  const [lot, grant, answered] = await Promise.all([
    getLot(db, batch.lot),
    findCurrentGrant(db),
    answeredItems(db, [batchId]),
  ]);
  const { checked, refused } = await checkItems([batch], grant?.fields.idPrefixes, answered, onProgress);
  const foreign =
    lot.builder === context.party
      ? undefined
      : new CountersignError("custody-conflict", `lot ${lot.id} is built by ${lot.builder}, not here`);

  const accepted = await inTransactionWithRetry(db, async (tx) => {
    if ((await lockBatch(tx, batchId)) === "done") return [];
    if (foreign !== undefined) {
      await insertResults(tx, [...refused, ...checked.map((item) => refusal(item, foreign, item.deviceId))]);
      return [];
    }
    const closed = await lockOpenLot(tx, batch.lot).then(() => undefined, asRefusal);
    // Before the look at the devices: another batch of this lot with the same ones is seen whole or not at all.
    await lockSlots(tx, batch.lot);
    const devices = await lockDevices(
      tx,
      checked.map((item) => item.deviceId),
      checked.map((item) => item.spkiSha256),
    );
    const decisions = admitBuilt(checked, known(devices), batch.lot, closed);
    const slots = decisions.fresh.length === 0 ? [] : await takeSlots(tx, batch.lot, decisions.fresh.length);
    const built = decisions.fresh.slice(0, slots.length);
    const full = new CountersignError(
      "slots-exhausted",
      `lot ${lot.id} has no free slot left of its ${lot.slots}: open another lot`,
    );
    const admitted = new Set([...built, ...decisions.again].map((item) => item.deviceId));
    const late = [
      ...decisions.fresh.slice(slots.length),
      ...decisions.repeated.filter((i) => !admitted.has(i.deviceId)),
    ];

    if (built.length > 0) await storeBlob(tx, Buffer.from(batch.manifestSha256, "hex"), batch.manifest);
    const records = await acts.recordLines(
      tx,
      built.map((item, i) => builtDraft(batch, lot.ref, grant, item, slots[i]!)),
    );
    const stored = await insertDevices(
      tx,
      built.map((item, i) => ({
        id: item.deviceId,
        spkiSha256: item.spkiSha256,
        lot: batch.lot,
        slot: slots[i]!,
        csrSha256: item.csrSha256,
        csr: item.csr,
        stage: "built" as const,
        prev: { origin: acts.origin, leafHash: records[i]!.leafHash },
      })),
    );
    if (stored < built.length) throw new LostRace();
    const fresh = [...refused, ...decisions.refused, ...late.map((item) => refusal(item, full, item.deviceId))];
    await insertResults(tx, fresh);
    return [...built, ...decisions.again, ...decisions.repeated.filter((item) => admitted.has(item.deviceId))];
  });
  onProgress?.();

  const results: ItemResult[] = accepted.map(({ batch, index, deviceId: device }) => ({ batch, index, device }));
  const keys = new Set(results.map((r) => retryKeyOf(acts.origin, lotWorkflowId(batch.lot), builtStep(r.device!))));
  await waitForLedger(context, [...keys], onProgress);
  await inTransaction(db, async (tx) => {
    await insertResults(tx, results);
    await finishBatches(tx, [batchId]);
  });
}

function builtDraft(
  batch: Batch,
  lotOpened: { origin: string; leafHash: string },
  grant: CurrentGrant | undefined,
  item: CheckedItem,
  slot: number,
): ActDraft<"built"> {
  return {
    type: "built",
    workflowId: lotWorkflowId(batch.lot),
    stepKey: builtStep(item.deviceId),
    subject: [{ name: item.deviceId, digest: { sha256: item.spkiSha256 } }],
    ...(grant === undefined ? {} : { grant: grant.ref }),
    prev: [lotOpened],
    fields: {
      lot: batch.lot,
      slot,
      spki: toBase64(item.spki),
      csrSha256: item.csrSha256,
      intake: item.intake,
    },
  };
}

/** A refusal as a value: it holds for the items that are new, not for those that have their answer. */
export function asRefusal(error: unknown): CountersignError {
  if (error instanceof CountersignError && error.kind === "refused") return error;
  throw error;
}
