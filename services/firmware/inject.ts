import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { assertDeviceId } from "../../lib/domain/ids.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import {
  applyPatches,
  bytesReader,
  checkChainFor,
  checkChainOrder,
  checkLayout,
  checkWritten,
  firmwareFormat,
  type FirmwareFormat,
  type FirmwareTemplate,
  type Layout,
} from "../../lib/firmware/index.ts";
import { receipt as receiptSchema, type Receipt } from "../../lib/records/receipt.ts";
import { syncFilesystem } from "./sync.ts";
import { sha256Hex } from "../ledger/sha256.ts";

/**
 * Puts chains into copies of one template image, a batch at a time. A device's `image.<ext>` and `receipt.json` get
 * their names only after the image was read back and all of the batch is on disk, so a file under its final name is
 * always whole. The same input gives the same bytes again: a batch that failed half-way is simply run again.
 */

const TOOL_VERSION = "countersign 0.1.0";
const CONCURRENCY = 8;

export interface BatchRequest {
  readonly format: string;
  readonly templatePath: string;
  /** refuses a template with another digest (hex), as pinned when the lot was opened */
  readonly templateSha256?: string | undefined;
  /** the template's name in receipts, relative to an export's root; default `firmware/<file name>` */
  readonly templateName?: string | undefined;
  readonly layout: Layout;
  /** for formats that sign the image again */
  readonly signer?: Signer | undefined;
  /** receives `<deviceId>/image.<ext>` and `<deviceId>/receipt.json` */
  readonly outDir: string;
  readonly devices: readonly DeviceChain[];
}

export interface DeviceChain {
  readonly deviceId: string;
  readonly lot: string;
  readonly slot: number;
  /** leaf first, without the root */
  readonly chainDer: readonly Uint8Array[];
  /** the key in the device's CSR (DER SubjectPublicKeyInfo): a chain for another key is refused */
  readonly spki?: Uint8Array | undefined;
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

/** A template that was read, pinned and found to fit its layout. */
export interface PreparedTemplate {
  readonly format: FirmwareFormat;
  readonly bytes: Uint8Array;
  /** hex */
  readonly sha256: string;
  readonly template: FirmwareTemplate;
}

/**
 * Reads a template and checks the layout against it; worth doing when a lot is opened.
 * @throws CountersignError `component-missing`, `image-invalid`, `image-region-overlap`, `image-region-too-small`, `usage`
 */
export async function validateLayout(
  request: Pick<BatchRequest, "format" | "templatePath" | "templateSha256" | "layout" | "signer">,
): Promise<PreparedTemplate> {
  const format = firmwareFormat(request.format);
  checkLayout(format, request.layout);
  const bytes = await readFile(request.templatePath).catch((cause: unknown) => {
    throw new CountersignError("component-missing", `the template image ${request.templatePath} can't be read`, {
      cause,
    });
  });
  const sha256 = sha256Hex(bytes);
  if (request.templateSha256 !== undefined && request.templateSha256 !== sha256) {
    throw new CountersignError(
      "image-invalid",
      `the template image ${request.templatePath} has SHA-256 ${sha256}, the lot was opened for ${request.templateSha256}`,
    );
  }
  return { format, bytes, sha256, template: await format.open(bytesReader(bytes), request.layout, request.signer) };
}

/**
 * Injects one chain a device. One device's fault is its own result; the others go on.
 * Resolves only with the images durable; safe to run again after any failure.
 * @returns one result a device, in the order given
 * @throws CountersignError for a template or layout that no device can use, or an output folder that can't be written
 */
export async function injectBatch(request: BatchRequest): Promise<InjectionResult[]> {
  const prepared = await validateLayout(request);
  const seen = new Set<string>();
  const staged: (Staged | Extract<InjectionResult, { ok: false }>)[] = [];
  for (let from = 0; from < request.devices.length; from += CONCURRENCY) {
    const part = request.devices.slice(from, from + CONCURRENCY).map(async (device) => {
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
  }
  const written = staged.filter((one) => one.ok);
  if (written.length === 0) return staged.filter((one) => !one.ok);

  // Names only point at bytes that are on disk; the second sync makes the names durable before anyone vouches for them.
  await syncFilesystem(request.outDir);
  const renamed = written.flatMap(({ moves }) => moves.map(([from, to]) => rename(from, to)));
  const stuck = (await Promise.allSettled(renamed)).find((one) => one.status === "rejected");
  if (stuck !== undefined) {
    await discard(written);
    throw unwritable(request.outDir, stuck.reason);
  }
  await syncFilesystem(request.outDir);
  return staged.map((one) => {
    if (!one.ok) return one;
    const { moves: _moves, ...result } = one;
    return result;
  });
}

type Staged = Extract<InjectionResult, { ok: true }> & { readonly moves: readonly (readonly [string, string])[] };

/** Writes one device's files under temporary names and judges the image from what was written. */
async function stage(prepared: PreparedTemplate, request: BatchRequest, device: DeviceChain): Promise<Staged> {
  const { format, template, bytes } = prepared;
  const deviceId = assertDeviceId(device.deviceId);
  checkDevice(device);
  const injection = await template.inject(device.chainDer);
  const image = applyPatches(bytes, injection.patches);
  const imageName = `image.${format.extension}`;
  const receipt = checked({
    schema: 1,
    deviceId,
    lot: device.lot,
    slot: device.slot,
    format: format.name,
    original: { path: request.templateName ?? `firmware/${basename(request.templatePath)}`, sha256: prepared.sha256 },
    image: { path: `devices/${deviceId}/${imageName}`, sha256: sha256Hex(image) },
    region: injection.region,
    chain: { sha256: sha256Hex(injection.chainBytes), encoding: injection.encoding },
    readBack: true,
    toolVersion: TOOL_VERSION,
  });
  const receiptBytes = canonicalJson(receipt);

  const folder = join(request.outDir, deviceId);
  await mkdir(folder, { recursive: true });
  const imagePath = join(folder, imageName);
  const suffix = `.${randomUUID()}.tmp`;
  const moves = [
    [imagePath + suffix, imagePath],
    [join(folder, "receipt.json" + suffix), join(folder, "receipt.json")],
  ] as const;
  try {
    await writeFile(moves[0][0], image, { flag: "wx" });
    const written = await readFile(moves[0][0]);
    if (sha256Hex(written) !== receipt.image.sha256) {
      throw new CountersignError(
        "read-back-mismatch",
        `the image of ${deviceId} isn't what was written; check the disk`,
      );
    }
    await checkWritten(template, bytesReader(bytes), bytesReader(written), injection);
    await writeFile(moves[1][0], receiptBytes, { flag: "wx" });
  } catch (error) {
    await Promise.all(moves.map(([from]) => rm(from, { force: true })));
    throw error;
  }
  return { ok: true, deviceId, receipt, receiptBytes, imagePath, moves };
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
  if (device.spki !== undefined) checkChainFor(device.spki, device.chainDer);
}

function unwritable(outDir: string, cause: unknown): CountersignError {
  return new CountersignError(
    "component-unreachable",
    `the images can't be written to ${outDir}: ${cause instanceof Error ? cause.message : String(cause)}`,
    { cause },
  );
}

async function discard(staged: readonly (Staged | { ok: false })[]): Promise<void> {
  const files = staged.flatMap((one) => (one.ok ? one.moves.map(([from]) => from) : []));
  await Promise.all(files.map((file) => rm(file, { force: true })));
}
