import { setTimeout as sleep } from "node:timers/promises";
import { isHsmRefusal } from "../../hsm/index.ts";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import type { LintedTbs } from "../../lib/pki/lint.ts";
import type { PrevRef } from "../../lib/records/primitives.ts";
import {
  answeredItems,
  finishBatches,
  getBatches,
  insertResults,
  lockPending,
  type Batch,
} from "../../store/batches.ts";
import { inTransaction } from "../../store/db.ts";
import { advanceDevices } from "../../store/devices.ts";
import { currentGrant } from "../../store/grants.ts";
import {
  certifiedKeys,
  findIssuances,
  lockUnsigned,
  storeCertificates,
  type Issuance,
  type NewIntent,
} from "../../store/issuance.ts";
import { getLot, type Lot } from "../../store/lots.ts";
import { noteSignatures } from "../../store/signature-account.ts";
import type { ActDraft } from "../ledger/index.ts";
import { inTransactionWithRetry } from "./attempts.ts";
import { authorityFor, authorityOfKey, relint, type Authority } from "./authority.ts";
import {
  beating,
  certifiedStep,
  lotWorkflowId,
  waitForLedger,
  type IssuingContext,
  type OnProgress,
} from "./context.ts";
import { storeIntents, type Intended } from "./intents.ts";
import { checkItems, type CheckedItem, type Refused } from "./items.ts";

/** Signatures of one batch that are asked for at once. A token's line has room for several batches' worth. */
const IN_HAND = 256;
/** What a slow token has signed by then is stored: an attempt that runs out of time hasn't worked for nothing. */
const STORE_AFTER_MS = 5_000;
/** So long a change of the CA's key is waited for here; then the activity is tried again. */
const ROTATION_MS = 10_000;
const ROTATION_LOOK_MS = 100;

/** As {@link issueBatches}, for one. */
export async function issueBatch(context: IssuingContext, batchId: string, onProgress?: OnProgress): Promise<void> {
  await issueBatches(context, [batchId], onProgress);
}

/**
 * Certifies batches of one lot together: intents durable, then the HSM, then the first stored certificate queued for the ledger, and only
 * what is under a signed checkpoint released. Safe to run again after any failure, and beside itself: whatever happened
 * in between, a device gets one certificate. What it throws may be one batch's fault: each is then tried by itself.
 * @throws CountersignError `not-found`, `grant-missing`, and what the HSM, the database or the ledger throws; a fault of
 *   one item is that item's result
 */
export async function issueBatches(
  context: IssuingContext,
  batchIds: readonly string[],
  onProgress?: OnProgress,
): Promise<void> {
  const { db } = context;
  const batches = (await getBatches(db, [...new Set(batchIds)])).filter(({ state }) => state !== "done");
  const [first] = batches;
  if (first === undefined) return;
  if (batches.some((batch) => batch.lot !== first.lot)) throw new CountersignError("internal", "batches of two lots");
  const ids = batches.map(({ id }) => id);
  const [lot, grant, answered] = await Promise.all([getLot(db, first.lot), currentGrant(db), answeredItems(db, ids)]);
  // No revision of a grant has another namespace.
  const { checked, refused } = await checkItems(batches, grant.fields.idPrefixes, answered, onProgress);
  const { authority, intended } = await intend(context, batches, lot, { checked, refused }, onProgress);
  onProgress?.();
  await context.seam?.afterIntents?.();

  const devices = [...new Set(intended.items.map((item) => item.deviceId))];
  await signIntended(context, authority, lot, devices, intended, onProgress);
  await context.seam?.afterStored?.();

  const keys = await certifiedKeys(db, lot.profile.name, devices);
  if (keys.length !== devices.length) {
    throw new CountersignError("internal", `there are unsigned intents of ${ids.join(", ").slice(0, 200)}`);
  }
  await waitForLedger(context, keys, onProgress);
  await inTransaction(db, async (tx) => {
    // Another run of some of these batches may be at the same: their locks come in one order.
    await lockPending(tx, ids);
    await insertResults(
      tx,
      intended.items.map(({ batch, index, deviceId: device }) => ({ batch, index, device })),
    );
    await finishBatches(tx, ids);
  });
}

/** Stores the intents under the CA key in force. While that is being changed nothing is intended: it takes a moment. */
async function intend(
  context: IssuingContext,
  batches: readonly Batch[],
  lot: Lot,
  { checked, refused }: { checked: readonly CheckedItem[]; refused: readonly Refused[] },
  onProgress: OnProgress | undefined,
): Promise<{ authority: Authority; intended: Intended }> {
  for (const end = performance.now() + ROTATION_MS; ;) {
    const grant = await currentGrant(context.db);
    const authority = authorityFor(grant, lot.profile.name, context.crlUrl, lot.certificate);
    try {
      return { authority, intended: await storeIntents(context, authority, batches, lot, checked, refused) };
    } catch (error) {
      if (errorCodeOf(error) !== "rotation-under-way" || performance.now() > end) throw error;
      await beating(onProgress, () => sleep(ROTATION_LOOK_MS));
    }
  }
}

/**
 * Certifies devices whose intents were left open, under exactly their stored bytes, and releases them. For whom no batch
 * waits any more; a certificate that came first meanwhile stands.
 * @throws as {@link issueBatch}
 */
export async function issueIntended(
  context: IssuingContext,
  authority: Authority,
  lot: Lot,
  devices: readonly string[],
  onProgress?: OnProgress,
): Promise<void> {
  const { db } = context;
  await signIntended(context, authority, lot, devices, { items: [], fresh: new Map() }, onProgress);
  const keys = await certifiedKeys(db, lot.profile.name, devices);
  if (keys.length !== devices.length) throw new CountersignError("internal", "an intent was given up meanwhile");
  await waitForLedger(context, keys, onProgress);
}

/** Signs exactly the stored bytes of those that have no certificate yet, and stores what came first. */
async function signIntended(
  context: IssuingContext,
  authority: Authority,
  lot: Lot,
  devices: readonly string[],
  { items, fresh }: Intended,
  onProgress?: OnProgress,
): Promise<void> {
  // What this run's T1 committed is at hand, and never changes; an earlier run's intents are read, and linted again.
  const before = devices.filter((device) => !fresh.has(device));
  const stored = before.length === 0 ? [] : await findIssuances(context.db, lot.profile.name, before);
  const open: Unsigned[] = [
    ...[...fresh.values()].map(({ intent, linted }) => ({ ...intent, grant: authority.grant.ref, linted })),
    ...stored.filter((issuance) => issuance.certificate === null && issuance.abandoned === null),
  ];
  for (const [issuerKeyId, some] of Map.groupBy(open, (one) => one.issuerKeyId)) {
    const { profile } = lot;
    const under =
      issuerKeyId === authority.issuerKeyId
        ? authority
        : await authorityOfKey(context.db, issuerKeyId, profile.name, context.crlUrl, lot.certificate);
    const now = under === authority ? fresh.size : 0;
    await signUnder(context, under, lot, some, items, now, onProgress);
  }
}

/** @param fresh how many of those under the present key were stored by this run */
async function signUnder(
  context: IssuingContext,
  authority: Authority,
  lot: Lot,
  open: readonly Unsigned[],
  items: readonly CheckedItem[],
  fresh: number,
  onProgress?: OnProgress,
): Promise<void> {
  // The token may have signed these before: what it counts and what was asked for go on agreeing.
  await noteSignatures(context.db, authority.issuerKeyId, open.length - fresh);
  const asked = { count: 0 };
  try {
    await signAndStore(context, authority, lot, open, items, asked, onProgress);
  } finally {
    // A theft could hide under what is accounted for and was never signed. A fault here leaves it so, as a crash does.
    await noteSignatures(context.db, authority.issuerKeyId, asked.count - open.length).catch(() => undefined);
  }
}

/** @param asked how many signatures the token was asked for, counted up */
async function signAndStore(
  context: IssuingContext,
  authority: Authority,
  lot: Lot,
  open: readonly Unsigned[],
  items: readonly CheckedItem[],
  asked: { count: number },
  onProgress?: OnProgress,
): Promise<void> {
  const key = await context.caKey(authority.issuerKeyId);
  const left = open.values();
  let failed = false;
  let signed: Signed[] = [];
  let storedAt = performance.now();
  const store = async (): Promise<void> => {
    const some = signed;
    signed = [];
    storedAt = performance.now();
    await storeSigned(context, lot, some, items);
  };
  const signOn = async (): Promise<void> => {
    for (const issuance of left) {
      if (failed) return;
      try {
        const tbs = issuance.linted ?? relint(authority, issuance.tbs);
        asked.count++;
        const certificate = await key.signCertificate(tbs);
        // Only now: what was gathered when it was asked for may be on its way into the database.
        signed.push({ issuance, certificate });
        if (performance.now() - storedAt > STORE_AFTER_MS) await store();
      } catch (error) {
        failed = true;
        if (isHsmRefusal(error)) asked.count--;
        throw error;
      }
    }
  };
  // A slow HSM takes longer over a signature, or over the line before it, than a heartbeat may.
  await beating(onProgress, async () => {
    const ended = await Promise.allSettled(Array.from({ length: Math.min(IN_HAND, open.length) }, signOn));
    await context.seam?.afterSigning?.();
    // Also of a batch that failed: its next attempt signs only what is left, so that it comes to an end.
    if (signed.length > 0) await store();
    for (const end of ended) if (end.status === "rejected") throw end.reason;
  });
}

interface Signed {
  readonly issuance: Unsigned;
  readonly certificate: Uint8Array;
}

type Unsigned = NewIntent & Pick<Issuance, "grant"> & { readonly linted?: LintedTbs };

/** T2: the first stored certificate of a device wins; its line record is queued with it. */
async function storeSigned(
  { db, acts }: IssuingContext,
  lot: Lot,
  signed: readonly Signed[],
  items: readonly CheckedItem[],
): Promise<void> {
  const csrs = new Map(items.map((item) => [item.deviceId, item.csr]));
  await inTransactionWithRetry(db, async (tx) => {
    const unsigned = await lockUnsigned(
      tx,
      lot.profile.name,
      signed.map(({ issuance }) => issuance.device),
    );
    const first = signed.filter(({ issuance }) => unsigned.has(issuance.device));
    const records = await acts.recordLines(
      tx,
      first.map(({ issuance, certificate }) =>
        certifiedDraft(lot, issuance, certificate, unsigned.get(issuance.device)!),
      ),
    );
    await storeCertificates(
      tx,
      lot.profile.name,
      first.map(({ issuance, certificate }, i) => ({
        device: issuance.device,
        certificate,
        retryKey: records[i]!.retryKey,
        leafHash: records[i]!.leafHash,
      })),
    );
    await advanceDevices(
      tx,
      "certified",
      acts.origin,
      first.map(({ issuance }, i) => {
        const csr = csrs.get(issuance.device);
        return {
          id: issuance.device,
          leafHash: records[i]!.leafHash,
          ...(csr === undefined ? {} : { csr }),
        };
      }),
    );
  });
}

function certifiedDraft(
  lot: Lot,
  issuance: Unsigned,
  certificate: Uint8Array,
  device: { slot: number; spkiSha256: string; prev: PrevRef },
): ActDraft<"certified"> {
  return {
    type: "certified",
    workflowId: lotWorkflowId(lot.id),
    stepKey: certifiedStep(issuance.device, lot.profile.name),
    subject: [{ name: issuance.device, digest: { sha256: device.spkiSha256 } }],
    grant: issuance.grant,
    prev: [device.prev],
    fields: {
      lot: lot.id,
      slot: device.slot,
      profile: lot.profile,
      certificate: toBase64(certificate),
      purpose: "initial",
      intake: issuance.intake,
      intent: issuance.intent,
    },
  };
}
