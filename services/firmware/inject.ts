import { randomUUID } from "node:crypto";
import { mkdir, rename, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { assertDeviceId, DEVICE_ID } from "../../lib/domain/ids.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { checkChainOrder, checkWritten, type Injection } from "../../lib/firmware/index.ts";
import { receipt as receiptSchema, type Receipt } from "../../lib/records/receipt.ts";
import { digestOf, openImage, writePatched } from "./image-file.ts";
import { hold, letGo, removeLeftovers, takeAway } from "./leftovers.ts";
import { prepareTemplate, type PreparedTemplate, type TemplateRequest } from "./prepared.ts";
import { syncFilesystem } from "./sync.ts";
import { sha256Hex } from "../ledger/sha256.ts";

/**
 * Puts chains into copies of one template image, a batch at a time. A device's `image.<ext>` and `receipt.json` get
 * their names only after the image was read back and all of the batch is on disk, so a file under its final name is
 * always whole. The same input gives the same bytes again, but for images that are signed again: whoever records
 * receipts publishes under a lock, so that no second run replaces an image that was vouched for.
 */

const TOOL_VERSION = "countersign 0.1.0";
const CONCURRENCY = 8;
/** Large images are read and written piece by piece, one after the other: the disk is what they wait for. */
const CONCURRENCY_LARGE = 1;

export interface BatchRequest extends TemplateRequest {
  /** the template's name in receipts, relative to an export's root; default `firmware/<file name>` */
  readonly templateName?: string | undefined;
  /** receives `<deviceId>/image.<ext>` and `<deviceId>/receipt.json` */
  readonly outDir: string;
  readonly devices: readonly DeviceChain[];
  /** called as devices are done: a batch of large images takes a while */
  readonly onProgress?: (() => void) | undefined;
}

export interface DeviceChain {
  readonly deviceId: string;
  readonly lot: string;
  readonly slot: number;
  /** leaf first, without the root */
  readonly chainDer: readonly Uint8Array[];
  /** of the key in the device's CSR (DER SubjectPublicKeyInfo), hex: a chain for another key is refused */
  readonly spkiSha256?: string | undefined;
}

export type InjectionResult =
  | {
      readonly ok: true;
      readonly deviceId: string;
      readonly receipt: Receipt;
      /** as written to receipt.json: RFC 8785 canonical JSON */
      readonly receiptBytes: Uint8Array;
      readonly imagePath: string;
    }
  | { readonly ok: false; readonly deviceId: string; readonly error: CountersignError };

/** Images that were read back and are on disk, under temporary names. */
export interface StagedBatch {
  /** one a device, in the order given; paths and receipts are those of published files */
  readonly results: readonly InjectionResult[];
  /**
   * Gives these devices' files their names; resolves with the names durable, too.
   * @throws CountersignError `component-unreachable`; some may have their names then
   */
  publish(devices: Iterable<string>): Promise<void>;
  /** Takes away what wasn't published. */
  discard(): Promise<void>;
}

/**
 * Injects one chain a device, for whoever nobody races. As `stageBatch`, with all of it published.
 * Safe to run again after any failure.
 */
export async function injectBatch(request: BatchRequest): Promise<readonly InjectionResult[]> {
  const staged = await stageBatch(request);
  await staged.publish(staged.results.map(({ deviceId }) => deviceId));
  return staged.results;
}

/**
 * Writes the images of a batch. One device's fault is its own result; the others go on. What an attempt that was killed
 * left of these devices is taken away first.
 * @throws CountersignError for a template or layout that no device can use, or an output folder that can't be written
 */
export async function stageBatch(request: BatchRequest): Promise<StagedBatch> {
  const { outDir } = request;
  const began = Date.now();
  const prepared = await prepareTemplate(request);
  let staged: (Staged | Failed)[];
  try {
    await clearOutput(request, began);
    staged = await stageAll(prepared, request);
  } finally {
    await prepared.close();
  }
  const waiting = new Map(staged.flatMap((one) => (one.ok ? [[one.deviceId, one.moves] as const] : [])));
  const discard = async () => {
    const files = [...waiting.values()].flatMap((moves) => moves.map(([from]) => from));
    waiting.clear();
    await takeAway(files);
  };
  return {
    results: staged.map((one) => {
      if (!one.ok) return one;
      const { moves: _moves, ...result } = one;
      return result;
    }),
    discard,
    async publish(devices) {
      const named = new Set(devices);
      const moves = [...named].flatMap((device) => waiting.get(device) ?? []);
      if (moves.length === 0) return;
      const renamed = await Promise.allSettled(moves.map(([from, to]) => rename(from, to)));
      const stuck = renamed.find((one) => one.status === "rejected");
      if (stuck !== undefined) {
        await discard();
        throw unwritable(outDir, stuck.reason);
      }
      for (const device of named) waiting.delete(device);
      letGo(moves.map(([from]) => from));
      await syncFilesystem(outDir);
    },
  };
}

async function clearOutput({ outDir, devices }: BatchRequest, began: number): Promise<void> {
  // An id that isn't one names no folder; the device is refused on its own.
  const ids = devices.filter(({ deviceId }) => DEVICE_ID.test(deviceId)).map(({ deviceId }) => deviceId);
  try {
    await removeLeftovers(
      ids.map((id) => join(outDir, id)),
      began,
    );
  } catch (error) {
    throw unwritable(outDir, error);
  }
}

async function stageAll(prepared: PreparedTemplate, request: BatchRequest): Promise<(Staged | Failed)[]> {
  const seen = new Set<string>();
  const staged: (Staged | Failed)[] = [];
  const width = prepared.image.bytes === undefined ? CONCURRENCY_LARGE : CONCURRENCY;
  for (let from = 0; from < request.devices.length; from += width) {
    const part = request.devices.slice(from, from + width).map(async (device) => {
      try {
        const twice = seen.has(device.deviceId);
        seen.add(device.deviceId);
        if (twice) throw new CountersignError("input-invalid", `device ${device.deviceId} is twice in the batch`);
        return await stage(prepared, request, device);
      } catch (error) {
        if (!isCountersignError(error)) throw error;
        return { ok: false as const, deviceId: device.deviceId, error };
      }
    });
    const settled = await Promise.allSettled(part);
    for (const one of settled) if (one.status === "fulfilled") staged.push(one.value);
    const failed = settled.find((one) => one.status === "rejected");
    if (failed !== undefined) {
      await discard(staged);
      throw unwritable(request.outDir, failed.reason);
    }
    request.onProgress?.();
  }
  try {
    await assertUnchanged(prepared);
    // Names only ever point at bytes that are on disk.
    if (staged.some((one) => one.ok)) await syncFilesystem(request.outDir);
  } catch (error) {
    await discard(staged);
    throw error;
  }
  return staged;
}

/** A large template is read from disk for each device: what its digest was taken of must still be there. */
async function assertUnchanged({ image }: PreparedTemplate): Promise<void> {
  if (!(await image.changed())) return;
  throw new CountersignError(
    "image-invalid",
    `the template image ${image.path} was changed while devices were injected from it; put it back and inject again`,
  );
}

type Failed = Extract<InjectionResult, { ok: false }>;
type Staged = Extract<InjectionResult, { ok: true }> & { readonly moves: readonly (readonly [string, string])[] };

/** Writes one device's files under temporary names and judges the image from what was written. */
async function stage(prepared: PreparedTemplate, request: BatchRequest, device: DeviceChain): Promise<Staged> {
  const { format, image, template } = prepared;
  const deviceId = assertDeviceId(device.deviceId);
  checkDevice(device);
  const injection = await template.inject(device.chainDer);
  const folder = join(request.outDir, deviceId);
  await mkdir(folder, { recursive: true });
  const imageName = `image.${format.extension}`;
  const imagePath = join(folder, imageName);
  const suffix = `.${randomUUID()}.tmp`;
  const moves = [
    [imagePath + suffix, imagePath],
    [join(folder, "receipt.json" + suffix), join(folder, "receipt.json")],
  ] as const;
  const files = moves.map(([from]) => from);
  hold(files);
  try {
    await writePatched(image, injection.patches, moves[0][0]);
    const receipt = checked({
      schema: 1,
      deviceId,
      lot: device.lot,
      slot: device.slot,
      format: format.name,
      original: { path: request.templateName ?? `firmware/${basename(request.templatePath)}`, sha256: prepared.sha256 },
      image: { path: `devices/${deviceId}/${imageName}`, sha256: await judge(prepared, injection, moves[0][0]) },
      region: injection.region,
      chain: { sha256: sha256Hex(injection.chainBytes), encoding: injection.encoding },
      readBack: true,
      toolVersion: TOOL_VERSION,
    });
    const receiptBytes = canonicalJson(receipt);
    await writeFile(moves[1][0], receiptBytes, { flag: "wx" });
    return { ok: true, deviceId, receipt, receiptBytes, imagePath, moves };
  } catch (error) {
    await takeAway(files);
    throw error;
  }
}

/** Reads the written image back. Gives its digest: of exactly the bytes that were found right. */
async function judge(prepared: PreparedTemplate, injection: Injection, path: string): Promise<string> {
  const written = await openImage(path);
  try {
    await checkWritten(prepared.template, prepared.image, written, injection);
    return await digestOf(written);
  } finally {
    await written.close();
  }
}

function checked(fields: Receipt): Receipt {
  const parsed = receiptSchema.safeParse(fields);
  if (parsed.success) return parsed.data;
  throw new CountersignError("input-invalid", `no receipt can be made: ${parsed.error.issues[0]!.message}`, {
    details: { field: parsed.error.issues[0]!.path.join(".") },
  });
}

/** The chain is this device's: its leaf names the device and holds the key of the device's CSR. */
function checkDevice(device: DeviceChain): void {
  const leaf = checkChainOrder(device.chainDer)[0]!;
  if (leaf.subject.cn !== device.deviceId) {
    throw new CountersignError(
      "read-back-mismatch",
      `the chain for device ${device.deviceId} has a leaf for ${leaf.subject.cn ?? "no device"}: it is another device's`,
    );
  }
  if (device.spkiSha256 !== undefined && sha256Hex(leaf.spki) !== device.spkiSha256) {
    throw new CountersignError(
      "read-back-mismatch",
      `the chain for device ${device.deviceId} holds another key than the device's CSR: it is another device's`,
    );
  }
}

function unwritable(outDir: string, cause: unknown): CountersignError {
  return new CountersignError(
    "component-unreachable",
    `the images can't be written to ${outDir}: ${cause instanceof Error ? cause.message : String(cause)}`,
    { cause },
  );
}

async function discard(staged: readonly (Staged | Failed)[]): Promise<void> {
  await takeAway(staged.flatMap((one) => (one.ok ? one.moves.map(([from]) => from) : [])));
}
