import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { CountersignError } from "../../lib/domain/errors.ts";
import { inTransaction } from "../../store/db.ts";
import { advanceDevices } from "../../store/devices.ts";
import { currentGrant, grantedChains, type CurrentGrant } from "../../store/grants.ts";
import {
  findRun,
  finishRun,
  insertInjections,
  insertRun,
  lockUninjected,
  nextCandidates,
  type InjectionCandidate,
  type InjectionRun,
  type NewInjection,
} from "../../store/injections.ts";
import { getLot, type Lot } from "../../store/lots.ts";
import { takenBack } from "../../store/revocations.ts";
import { stageBatch, type InjectionResult, type StagedBatch } from "../firmware/inject.ts";
import { INCLUSION_TIMEOUT_MS, lotWorkflowId } from "../issuing/context.ts";
import type { ActDraft } from "../ledger/index.ts";
import { revokedError, type CustodyContext } from "./context.ts";
import { layoutOfSlot, pinnedLayout, type PinnedLayout } from "./terms.ts";

/** Devices whose images become durable and are recorded together; fewer where images are large. */
const BATCH = 256;
const BATCH_BYTES = 512 << 20;

/**
 * Notes that the lot's certified devices are to get their images.
 * @throws CountersignError `lot-not-found`, `custody-conflict` where another party certifies the lot
 */
export async function startInjection(
  context: CustodyContext,
  request: { id: string; lot: string; limit?: number | undefined },
): Promise<void> {
  const lot = await getLot(context.db, request.lot);
  if (lot.issuer !== context.party) {
    throw new CountersignError(
      "custody-conflict",
      `lot ${lot.id} is certified and injected by ${lot.issuer}, not here`,
    );
  }
  await insertRun(context.db, request);
}

/**
 * Injects the next devices of a run and records what came of it. An image that was written and not recorded is written
 * again; one that was recorded never is, also by a run that overlaps.
 * @returns the run as it stands; `done` when nothing is left
 */
export async function injectNext(
  context: CustodyContext,
  runId: string,
  onProgress?: () => void,
): Promise<InjectionRun> {
  const { db, acts } = context;
  const run = await findRun(db, runId);
  if (run === undefined) throw new CountersignError("not-found", `there is no injection run ${runId}`);
  if (run.state === "done") return run;
  const [lot, grant] = await Promise.all([getLot(db, run.lot), currentGrant(db)]);
  const layouts = lot.layouts.map((layout) => pinnedLayout.parse(layout));
  const batch = await batchSize(context, layouts);
  const left = run.limit === null ? batch : Math.min(batch, run.limit - run.done - run.failed);
  const candidates = left <= 0 ? [] : await nextCandidates(db, run.id, lot.id, lot.profile.name, left);
  if (candidates.length === 0) {
    await finishRun(db, runId);
    return { ...run, state: "done" };
  }

  const byLayout = new Map<PinnedLayout, InjectionCandidate[]>();
  for (const candidate of candidates) {
    const layout = layoutOfSlot(layouts, candidate.slot);
    byLayout.set(layout, [...(byLayout.get(layout) ?? []), candidate]);
  }
  for (const [layout, devices] of byLayout) {
    const staged = await stageInto(context, lot, layout, devices, onProgress);
    onProgress?.();
    let keys: string[];
    try {
      keys = await recordInjections(context, runId, lot, grant, layout, devices, staged);
    } finally {
      await staged.discard();
    }
    await acts.waitIncluded(keys, { timeoutMs: INCLUSION_TIMEOUT_MS });
    onProgress?.();
  }
  return (await findRun(db, runId)) ?? run;
}

async function batchSize({ firmwareDir }: CustodyContext, layouts: readonly PinnedLayout[]): Promise<number> {
  const sizes = layouts.map(async ({ template }) => {
    const found = await stat(join(firmwareDir, template.name)).catch(() => undefined);
    return found?.size ?? 0;
  });
  return Math.max(1, Math.min(BATCH, Math.floor(BATCH_BYTES / Math.max(1, ...(await Promise.all(sizes))))));
}

async function stageInto(
  context: CustodyContext,
  lot: Lot,
  layout: PinnedLayout,
  devices: readonly InjectionCandidate[],
  onProgress: (() => void) | undefined,
): Promise<StagedBatch> {
  const outDir = join(context.imagesDir, lot.id);
  await mkdir(outDir, { recursive: true, mode: 0o700 });
  // As it was certified: the CA's certificate may have been renewed since.
  const above = await grantedChains(context.db);
  return await stageBatch({
    format: layout.format,
    templatePath: join(context.firmwareDir, layout.template.name),
    templateSha256: layout.template.sha256,
    layout: layout.placement,
    signer: context.imageSigner,
    outDir,
    onProgress,
    devices: devices.map((device) => ({
      deviceId: device.device,
      lot: lot.id,
      slot: device.slot,
      chainDer: [device.certificate, ...(above.get(device.grantLeaf) ?? [])],
      spkiSha256: device.spkiSha256,
    })),
  });
}

/** One transaction for the records and the rows. Gives the records' retry keys. */
async function recordInjections(
  { db, acts }: CustodyContext,
  runId: string,
  lot: Lot,
  grant: CurrentGrant,
  layout: PinnedLayout,
  devices: readonly InjectionCandidate[],
  staged: StagedBatch,
): Promise<string[]> {
  const { results } = staged;
  const byId = new Map(devices.map((device) => [device.device, device]));
  return await inTransaction(db, async (tx) => {
    const open = await lockUninjected(
      tx,
      devices.map((device) => device.device),
    );
    const revoked = await takenBack(tx, [...open.keys()]);
    const good = results
      .filter((result) => result.ok)
      .filter(({ deviceId }) => open.has(deviceId) && !revoked.has(deviceId));
    // While the rows are locked: of two runs for one device the first that is recorded gives it its image, and no later
    // one (whose signature is another) takes that image's place.
    await staged.publish(good.map((result) => result.deviceId));
    const records = await acts.recordLines(
      tx,
      good.map((result) =>
        injectedDraft(lot, grant, layout, result, byId.get(result.deviceId)!, open.get(result.deviceId)!.prev),
      ),
    );
    const injections: NewInjection[] = results
      .filter((result) => !result.ok)
      .filter(({ deviceId }) => !revoked.has(deviceId))
      .map(({ deviceId, error }) => ({ device: deviceId, error: { code: error.code, message: error.message } }));
    const { code, message } = revokedError();
    for (const device of revoked) injections.push({ device, error: { code, message } });
    good.forEach((result, i) => {
      const { receipt, imagePath } = result;
      injections.push({ device: result.deviceId, receipt, imagePath, leafHash: records[i]!.leafHash });
    });
    await insertInjections(tx, runId, injections);
    for (const installed of [false, true]) {
      await advanceDevices(
        tx,
        installed ? "installed" : "injected",
        acts.origin,
        good.flatMap((result, i) =>
          open.get(result.deviceId)!.installed === installed
            ? [{ id: result.deviceId, leafHash: records[i]!.leafHash }]
            : [],
        ),
      );
    }
    return records.map((record) => record.retryKey);
  });
}

function injectedDraft(
  lot: Lot,
  grant: CurrentGrant,
  layout: PinnedLayout,
  { receipt, deviceId }: Extract<InjectionResult, { ok: true }>,
  device: InjectionCandidate,
  prev: NonNullable<ActDraft["prev"]>[number],
): ActDraft<"injected"> {
  return {
    type: "injected",
    workflowId: lotWorkflowId(lot.id),
    stepKey: `injected/${deviceId}`,
    subject: [{ name: deviceId, digest: { sha256: device.spkiSha256 } }],
    grant: grant.ref,
    prev: [prev],
    fields: {
      lot: lot.id,
      slot: device.slot,
      receipt,
      layoutSha256: layout.sha256,
      chains: [
        {
          purpose: lot.profile.name === "ldevid" ? "ldevid" : "idevid",
          sha256: receipt.chain.sha256,
          certificates: 1 + grant.upstream.length,
        },
      ],
      // What was read back is the chain, by another reader than the one that wrote it; its leaf has the device's key.
      readBack: { sha256: receipt.chain.sha256, leafKeyMatches: true },
    },
  };
}
