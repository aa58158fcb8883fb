import { equalBytes, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { inclusionProofs, leafHash } from "../../lib/ledger/tree.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import type { LintedTbs } from "../../lib/pki/lint.ts";
import { attestedDevices } from "../../store/attestations.ts";
import { answeredItems, insertResults, lockPending, type Batch } from "../../store/batches.ts";
import type { Tx } from "../../store/db.ts";
import { lockDevices } from "../../store/devices.ts";
import { debitQuota, rotationUnderWay } from "../../store/grants.ts";
import { findIssuances, insertIntents, type NewIntent } from "../../store/issuance.ts";
import { storeBlobs } from "../../store/ledger.ts";
import { lockOpenLot, type Lot } from "../../store/lots.ts";
import { nodeSha256, type ActDraft } from "../ledger/index.ts";
import { admitCertify, known } from "./admission.ts";
import { inTransactionWithRetry } from "./attempts.ts";
import { authorityGap, planCertificate, type Authority } from "./authority.ts";
import { asRefusal } from "./built.ts";
import { lotWorkflowId, type IssuingContext } from "./context.ts";
import { hexOnce, refusal, type CheckedItem, type Refused } from "./items.ts";

export interface Intended {
  /** every item that has an intent now, these batches' or an earlier one's */
  readonly items: CheckedItem[];
  /** what this call stored and linted, by device: signed without being read and linted again */
  readonly fresh: ReadonlyMap<string, { readonly intent: NewIntent; readonly linted: LintedTbs }>;
}

/**
 * T1: in one transaction locks the lot and the devices, debits the quota, fixes serials and validity, and makes durable
 * what is about to be signed, with an `intent` line record over each batch's. Refusals are stored with it. After this
 * commit a device's bytes never change.
 * @param batches of this lot; where the quota ends among them, the first in this order have it
 */
export async function storeIntents(
  context: IssuingContext,
  authority: Authority,
  batches: readonly Batch[],
  lot: Lot,
  checked: readonly CheckedItem[],
  refused: readonly Refused[],
): Promise<Intended> {
  const now = (context.now ?? (() => new Date()))();
  return await inTransactionWithRetry(context.db, async (tx) => {
    const ids = batches.map((batch) => batch.id);
    const pending = await lockPending(tx, ids);
    if (pending.size === 0) return { items: [], fresh: new Map() };
    const answered = await answeredItems(tx, ids);
    const open = checked.filter((item) => pending.has(item.batch) && !answered(item));
    const closed =
      (await lockOpenLot(tx, lot.id).then(() => undefined, asRefusal)) ??
      authorityGap(authority.grant.fields, lot, context.party, now);
    const devices = await lockDevices(
      tx,
      open.map((item) => item.deviceId),
      open.map((item) => item.spkiSha256),
    );
    const issued = await findIssuances(
      tx,
      lot.profile.name,
      devices.map((device) => device.id),
    );
    const byDevice = new Map(issued.map((issuance) => [issuance.device, issuance.csrSha256]));
    const unattested =
      lot.certificate.attestation === undefined ? undefined : await withoutAttestation(tx, open, lot.id);
    const decisions = admitCertify(open, known(devices), lot.id, byDevice, closed, unattested);
    const { planned, refusals } = plan(authority, decisions.fresh, now);
    const abandoned = new Map(issued.flatMap((i) => (i.abandoned === null ? [] : [[i.device, i.abandoned] as const])));
    for (const item of decisions.again) {
      const reason = abandoned.get(item.deviceId);
      if (reason !== undefined) refusals.push(refusal(item, givenUp(item.deviceId, reason), item.deviceId));
    }

    const granted = await debitUpTo(tx, planned.length, authority);
    const intended = planned.slice(0, granted.n);
    for (const { item } of planned.slice(granted.n)) refusals.push(refusal(item, granted.refusal, item.deviceId));
    const intents = intended.length === 0 ? [] : await writeIntents(tx, context, authority, batches, lot, intended);

    const linted = new Map(intended.map(({ item, linted }) => [item.deviceId, linted]));
    const errors = new Map(refusals.map((r) => [r.device, r.error]));
    for (const item of decisions.repeated) {
      const error = errors.get(item.deviceId);
      if (error !== undefined) refusals.push({ batch: item.batch, index: item.index, device: item.deviceId, error });
    }
    const early = refused.filter((item) => pending.has(item.batch));
    await insertResults(tx, [...early, ...decisions.refused, ...refusals]);
    return {
      items: [
        ...intended.map(({ item }) => item),
        ...decisions.again.filter((item) => !abandoned.has(item.deviceId)),
        ...decisions.repeated.filter((item) => linted.has(item.deviceId)),
      ],
      fresh: new Map(intents.map((intent) => [intent.device, { intent, linted: linted.get(intent.device)! }])),
    };
  });
}

/** Of a lot that asks for it, why a device without an attestation isn't certified. */
async function withoutAttestation(tx: Tx, items: readonly CheckedItem[], lot: string) {
  const attested = await attestedDevices(
    tx,
    items.map((item) => item.deviceId),
  );
  return ({ deviceId, csr }: CheckedItem): CountersignError | undefined => {
    if (attested.has(deviceId)) return undefined;
    const why = parseCsr(csr).attestation
      ? "the one in its CSR (id-aa-attestation) isn't taken, as it answers no challenge of this site"
      : "it has none";
    return new CountersignError(
      "attestation-required",
      `lot ${lot} asks for an attestation of each device's key; ${deviceId}: ${why}. Attest it first, by ` +
        "`countersign device attest` or POST /api/v1/lots/ID/attestations",
    );
  };
}

function givenUp(device: string, reason: string): CountersignError {
  return new CountersignError("state-conflict", `the certificate of ${device} was given up unsigned: ${reason}`);
}

interface Planned {
  readonly item: CheckedItem;
  readonly serial: string;
  readonly linted: LintedTbs;
  /** its bytes */
  readonly tbs: Uint8Array;
}

function plan(authority: Authority, items: readonly CheckedItem[], now: Date) {
  const planned: Planned[] = [];
  const refusals: Refused[] = [];
  for (const item of items) {
    try {
      const { serial, linted } = planCertificate(authority, item.deviceId, item.spki, now);
      planned.push({ item, serial, linted, tbs: linted.bytes });
    } catch (error) {
      refusals.push(refusal(item, error, item.deviceId));
    }
  }
  return { planned, refusals };
}

/** Takes `n` off the quota, or what is left of it. The grant's row is locked until the transaction ends. */
async function debitUpTo(tx: Tx, n: number, authority: Authority): Promise<{ n: number; refusal: unknown }> {
  let asked = n;
  let refused: unknown;
  while (asked > 0) {
    try {
      const { certificate } = await debitQuota(tx, asked);
      // What was planned is for a key that another one has taken the place of meanwhile.
      if (!equalBytes(parseCertificate(certificate).spki, authority.issuer.spki)) throw rotationUnderWay();
      break;
    } catch (error) {
      if (!isCountersignError(error) || error.code !== "quota-exceeded") throw error;
      refused = error;
      // The counter may have moved between the refusal and its count; it only grows, so this ends.
      asked = Math.min(asked - 1, Math.max(0, Number(error.details["quota"]) - Number(error.details["used"])));
    }
  }
  return { n: asked, refusal: refused ?? new CountersignError("quota-exceeded", "the grant's quota is used up") };
}

async function writeIntents(
  tx: Tx,
  { acts }: IssuingContext,
  authority: Authority,
  batches: readonly Batch[],
  lot: Lot,
  planned: readonly Planned[],
): Promise<NewIntent[]> {
  const byBatch = Map.groupBy(planned, ({ item }) => item.batch);
  const parts = batches.flatMap((batch) => {
    const some = byBatch.get(batch.id);
    if (some === undefined) return [];
    const leaves = some.map(({ tbs }) => leafHash(nodeSha256(tbs), nodeSha256));
    const { root, paths } = inclusionProofs(leaves, nodeSha256);
    return [{ batch, some, tbsRoot: toHex(root), paths }];
  });
  await storeBlobs(
    tx,
    parts.map(({ batch }) => ({ sha256: Buffer.from(batch.manifestSha256, "hex"), bytes: batch.manifest })),
  );
  const records = await acts.recordLines(
    tx,
    parts.map(({ batch, some, tbsRoot }) => intentDraft(authority, batch, lot, tbsRoot, some.length)),
  );
  const hexOf = hexOnce();
  const intents = parts.flatMap(({ some, paths }, part) =>
    some.map(({ item, serial, tbs }, index) => ({
      device: item.deviceId,
      csrSha256: item.csrSha256,
      issuerKeyId: authority.issuerKeyId,
      serial,
      tbs,
      intent: { leafHash: records[part]!.leafHash, index, path: paths[index]!.map(hexOf) },
      intake: item.intake,
    })),
  );
  await insertIntents(tx, { lot: lot.id, profile: lot.profile.name, grant: authority.grant.ref }, intents);
  return intents;
}

function intentDraft(authority: Authority, batch: Batch, lot: Lot, tbsRoot: string, count: number): ActDraft<"intent"> {
  return {
    type: "intent",
    workflowId: lotWorkflowId(lot.id),
    // A batch's intents may come in several transactions, each over other devices.
    stepKey: `intent/${batch.id}/${tbsRoot}`,
    subject: [{ name: lot.id, digest: { sha256: tbsRoot } }],
    grant: authority.grant.ref,
    prev: [lot.ref],
    blobs: [{ name: "manifest", sha256: batch.manifestSha256, size: batch.manifest.length }],
    fields: { lot: lot.id, manifest: batch.manifestSha256, tbsRoot, count },
  };
}
