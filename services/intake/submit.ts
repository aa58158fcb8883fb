import { toHex, fromHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { assertDeviceId } from "../../lib/domain/ids.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { commitment, csrItem, installItem } from "../../lib/records/manifest.ts";
import { insertBatch, type BatchKind, type NewBatch, type PendingBatch } from "../../store/batches.ts";
import { inTransaction, type Db } from "../../store/db.ts";
import { storeOpenings } from "../../store/installations.ts";
import { getLot } from "../../store/lots.ts";
import { sha256Hex } from "../issuing/items.ts";
import { nodeSha256 } from "../ledger/index.ts";
import { verifyManifest, type VerifiedManifest } from "./manifest.ts";

export interface IntakeContext {
  readonly db: Db;
  readonly party: string;
  /** this site's infrastructure CA certificate, DER */
  readonly infrastructure: Uint8Array;
  readonly now?: () => Date;
  /** a lot's batches that may wait; default WAITING_BATCHES */
  readonly waitingBatches?: number | undefined;
}

/** A value with the salt that hides it; `salt` is 32 bytes in hex. */
export interface Opening {
  readonly salt: string;
  readonly value: unknown;
}
export interface InstallItem {
  readonly deviceId: string;
  readonly place: Opening;
  readonly time: Opening;
}

/**
 * Takes a station's batch in: afterwards it is durable, and its id all that anybody needs. The same manifest again
 * gives the first answer.
 * @param csrs DER, as they came
 * @throws CountersignError those of {@link verifyManifest}, `lot-not-found`, `custody-conflict`, `already-exists`,
 *   `queue-full`
 */
export async function submitCsrs(
  context: IntakeContext,
  lot: string,
  dsse: Uint8Array,
  csrs: readonly Uint8Array[],
): Promise<PendingBatch> {
  const leaves = csrs.map((der) => csrItem(sha256Hex(der)));
  const verified = await verifyManifest(dsse, leaves, { infrastructure: context.infrastructure, now: now(context) });
  return await store(context, lot, dsse, verified, ["built", "certify"], csrs);
}

/** The same for installations. Values and salts go where they can be erased; the batch keeps commitments. */
export async function submitInstallations(
  context: IntakeContext,
  lot: string,
  dsse: Uint8Array,
  items: readonly InstallItem[],
): Promise<PendingBatch> {
  const openings = items.map((item) => ({
    deviceId: assertDeviceId(item.deviceId),
    place: open("place", item.place),
    time: open("time", item.time),
  }));
  const leaves = openings.map((o) => installItem(o.deviceId, o.place.commitment, o.time.commitment));
  const verified = await verifyManifest(dsse, leaves, { infrastructure: context.infrastructure, now: now(context) });
  const stored = openings.map((o) => canonicalJson([o.deviceId, o.place.commitment, o.time.commitment]));
  return await store(context, lot, dsse, verified, ["install"], stored, (tx) =>
    storeOpenings(
      tx,
      openings.flatMap(({ deviceId: device, place, time }) => [
        { ...place, device },
        { ...time, device },
      ]),
    ),
  );
}

async function store(
  { db, party, waitingBatches }: IntakeContext,
  lotId: string,
  dsse: Uint8Array,
  { manifest, sha256 }: VerifiedManifest,
  kinds: readonly BatchKind[],
  items: readonly Uint8Array[],
  beside?: (tx: Parameters<typeof insertBatch>[0]) => Promise<void>,
): Promise<PendingBatch> {
  const { id, kind } = manifest;
  if (manifest.lot !== lotId || !kinds.includes(kind)) {
    throw new CountersignError(
      "input-invalid",
      `the manifest is a ${kind} one for lot ${manifest.lot}: it can't be posted to lot ${lotId} here`,
    );
  }
  const lot = await getLot(db, lotId);
  const whose = kind === "built" ? lot.builder : lot.issuer;
  if (kind !== "install" && whose !== party) {
    throw new CountersignError(
      "custody-conflict",
      `lot ${lotId}: ${kind} batches go to ${whose}, this site is ${party}`,
    );
  }
  const batch: NewBatch = {
    id,
    lot: lotId,
    kind,
    manifest: dsse,
    manifestSha256: sha256,
    keyId: manifest.keyId,
    items,
  };
  await inTransaction(db, async (tx) => {
    if (await insertBatch(tx, batch, waitingBatches)) await beside?.(tx);
  });
  return { id, lot: lotId, kind, count: items.length };
}

function open(domain: string, { salt, value }: Opening) {
  let bytes: Uint8Array;
  try {
    bytes = fromHex(salt);
    if (bytes.length !== 32) throw new RangeError();
  } catch (cause) {
    throw new CountersignError("input-invalid", `a salt of ${domain} is not 32 bytes in hex`, { cause });
  }
  return { commitment: toHex(commitment(domain, bytes, value, nodeSha256)), domain, salt, value };
}

const now = (context: IntakeContext): Date => (context.now ?? (() => new Date()))();
