import { equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { parseCertificate } from "../pki/certificate.ts";
import { decodeChain, encodeChain } from "./chain.ts";
import { crc32 } from "./crc32.ts";
import type { Extraction, FirmwareTemplate, Injection, Layout, RangeReader, Region } from "./format.ts";
import { hex } from "./hexadecimal.ts";
import { readAll, readUpTo } from "./reader.ts";

/**
 * Espressif's esp_secure_cert partition (TLV format): a list of {magic, flags, reserved, type, subtype, length, data,
 * zero pad to 16, CRC}, little-endian, then erased flash (FF). The chip takes the last device-certificate entry, so the
 * whole chain is one entry of that type.
 */

const MAGIC = 0xba5eba11;
const HEADER = 12;
const FOOTER = 4;
const ALIGNMENT = 16;
const DEVICE_CERTIFICATE = 1;
/** Entries that vouch for all bytes before them: nothing may be added or changed once they are there. */
const SEALS = new Map([
  [8, "signature"],
  [9, "integrity"],
]);
/** The chip's reader requires a partition below 64 KiB. */
export const LARGEST_PARTITION = 0xffff;
export const ESP_SECURE_CERT_SIZE = 0x2000;

interface Entry {
  readonly offset: number;
  /** bytes, header, pad and CRC included */
  readonly size: number;
  readonly type: number;
  readonly data: Uint8Array;
}

/** An erased partition: what a chip holds before anything is provisioned. */
export function erasedPartition(size = ESP_SECURE_CERT_SIZE): Uint8Array {
  return new Uint8Array(size).fill(0xff);
}

/** Whether the bytes begin with a whole entry. Reads at most 64 KiB. */
export async function startsWithEntry(reader: RangeReader): Promise<boolean> {
  try {
    return readEntry(await readUpTo(reader, 0, LARGEST_PARTITION), 0) !== undefined;
  } catch {
    return false;
  }
}

/** @throws CountersignError as `FirmwareFormat.open` */
export async function openPartition(reader: RangeReader, layout: Layout): Promise<FirmwareTemplate> {
  const image = await readPartition(reader);
  if (layout.length !== undefined && layout.length > image.bytes.length) {
    throw new CountersignError(
      "image-region-too-small",
      `the partition has ${image.bytes.length} bytes, the layout asks for ${layout.length}`,
      { details: { size: image.bytes.length, length: layout.length } },
    );
  }
  return new Template(image, layout);
}

/** @throws CountersignError `image-invalid`, `image-no-chain` */
export async function extractFromPartition(reader: RangeReader): Promise<Extraction> {
  return extraction((await readPartition(reader)).entries);
}

class Template implements FirmwareTemplate {
  readonly #image: Partition;
  readonly #layout: Layout;

  constructor(image: Partition, layout: Layout) {
    this.#image = image;
    this.#layout = layout;
  }

  async inject(chain: readonly Uint8Array[]): Promise<Injection> {
    const { entries, end } = this.#image;
    const chainBytes = encodeChain(chain);
    const entry = encodeEntry(DEVICE_CERTIFICATE, chainBytes);
    const held = entries.filter(({ type }) => type === DEVICE_CERTIFICATE);
    const same = held.length === 1 && equalBytes(held[0]!.data, chainBytes);
    if (same) return { patches: [], region: regionOf(held[0]!), encoding: "pem-nul", chainBytes };
    this.#refuseSealed();

    const old = held[0];
    if (old !== undefined) this.#refuseUnlessReplaceable(held, entry.length);
    const offset = old?.offset ?? end;
    const length = Math.max(entry.length, old?.size ?? 0);
    this.#refuseUnlessErased(offset + (old?.size ?? 0), offset + length);

    const insert = new Uint8Array(length).fill(0xff);
    insert.set(entry);
    return {
      patches: [{ offset, remove: length, insert }],
      region: { offset, length },
      encoding: "pem-nul",
      chainBytes,
    };
  }

  async readBack(written: RangeReader, injection: Injection): Promise<Extraction> {
    const image = await readPartition(written);
    const [a, b] = [this.#image.bytes, image.bytes];
    const region = injection.region!;
    const end = region.offset + region.length;
    if (
      a.length !== b.length ||
      !equalBytes(a.subarray(0, region.offset), b.subarray(0, region.offset)) ||
      !equalBytes(a.subarray(end), b.subarray(end))
    ) {
      throw new CountersignError(
        "read-back-mismatch",
        "the written partition differs from the original outside the chain",
      );
    }
    return extraction(image.entries);
  }

  #refuseSealed(): void {
    const seal = this.#image.entries.find(({ type }) => SEALS.has(type));
    if (seal === undefined) return;
    throw new CountersignError(
      "image-region-overlap",
      `the partition is closed by its ${SEALS.get(seal.type)} entry at ${hex(seal.offset)}, which vouches for the ` +
        "bytes before it; inject the chain first, then seal the partition",
    );
  }

  #refuseUnlessReplaceable(held: readonly Entry[], size: number): void {
    const old = held[0]!;
    if (held.length > 1 || this.#layout.replace !== true) {
      throw new CountersignError(
        "image-holds-other-chain",
        `the partition holds another device certificate at ${hex(held.at(-1)!.offset)} (${describe(held.at(-1)!)}); ` +
          (held.length > 1
            ? `it has ${held.length} of them: start from an erased partition`
            : "give --replace to put the new chain in its place, or start from an erased partition"),
        { details: { offset: held.at(-1)!.offset } },
      );
    }
    const follows = this.#image.entries.some(({ offset }) => offset > old.offset);
    if (follows && size !== old.size) {
      throw new CountersignError(
        "image-region-overlap",
        `the entry at ${hex(old.offset)} has ${old.size} bytes and others follow it, the new one has ${size}; ` +
          "start from an erased partition",
        { details: { offset: old.offset } },
      );
    }
  }

  /** What the entry grows into must be flash that was never written. */
  #refuseUnlessErased(from: number, to: number): void {
    const { bytes, entries } = this.#image;
    const limit = Math.min(bytes.length, this.#layout.length ?? bytes.length);
    if (to > limit) {
      throw new CountersignError(
        "image-region-too-small",
        `the chain needs the partition's bytes up to ${hex(to)}, but it ends at ${hex(limit)}; ` +
          "leave intermediates out or use a larger partition",
        { details: { needed: to, available: limit } },
      );
    }
    for (let at = from; at < to; at++) {
      if (bytes[at] === 0xff) continue;
      const entry = entries.find(({ offset }) => offset === from);
      throw new CountersignError(
        "image-region-overlap",
        `the bytes from ${hex(at)} are in use ${entry ? `by the entry of type ${entry.type} that follows` : "behind the last entry"}; ` +
          "start from an erased partition",
        { details: { offset: at } },
      );
    }
  }
}

interface Partition {
  readonly bytes: Uint8Array;
  readonly entries: readonly Entry[];
  /** of the last entry: where the next one goes */
  readonly end: number;
}

async function readPartition(reader: RangeReader): Promise<Partition> {
  const bytes = await readAll(reader, LARGEST_PARTITION);
  const entries: Entry[] = [];
  let end = 0;
  for (;;) {
    const entry = readEntry(bytes, end);
    if (entry === undefined) break;
    entries.push(entry);
    end += entry.size;
  }
  if (entries.length === 0 && (bytes.length < HEADER + FOOTER || !erased(bytes))) {
    throw invalid("it neither starts with a TLV magic (11 BA 5E BA) nor is it erased (all FF)");
  }
  return { bytes, entries, end };
}

/** The entry at `offset`, or undefined where the list ends. @throws CountersignError `image-invalid` */
function readEntry(bytes: Uint8Array, offset: number): Entry | undefined {
  if (offset + 4 > bytes.length) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(offset, true) !== MAGIC) return undefined;
  if (offset + HEADER > bytes.length) throw invalid(`the entry at ${hex(offset)} is cut off`);
  const type = view.getUint8(offset + 8);
  const length = view.getUint16(offset + 10, true);
  const size = encodedSize(length);
  if (offset + size > bytes.length) throw invalid(`the entry at ${hex(offset)} is cut off`);
  const sum = offset + size - FOOTER;
  if (crc32(bytes.subarray(offset, sum), 0xffffffff) !== view.getUint32(sum, true)) {
    throw invalid(`the CRC of the entry at ${hex(offset)} is wrong`);
  }
  return { offset, size, type, data: bytes.subarray(offset + HEADER, offset + HEADER + length) };
}

function encodedSize(dataLength: number): number {
  return HEADER + Math.ceil(dataLength / ALIGNMENT) * ALIGNMENT + FOOTER;
}

function encodeEntry(type: number, data: Uint8Array): Uint8Array {
  const entry = new Uint8Array(encodedSize(data.length));
  const view = new DataView(entry.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint8(8, type);
  view.setUint16(10, data.length, true);
  entry.set(data, HEADER);
  const sum = entry.length - FOOTER;
  view.setUint32(sum, crc32(entry.subarray(0, sum), 0xffffffff), true);
  return entry;
}

function extraction(entries: readonly Entry[]): Extraction {
  const entry = entries.findLast(({ type }) => type === DEVICE_CERTIFICATE);
  if (entry === undefined) {
    throw new CountersignError("image-no-chain", "the partition holds no device certificate (entry of type 1)");
  }
  const { encoding } = decodeChain(entry.data);
  return { chainBytes: entry.data.slice(), encoding, region: regionOf(entry) };
}

function regionOf(entry: Entry): Region {
  return { offset: entry.offset, length: entry.size };
}

function describe(entry: Entry): string {
  try {
    return parseCertificate(decodeChain(entry.data).chain[0]!).subject.cn ?? "a leaf without CN";
  } catch {
    return "not a certificate";
  }
}

function erased(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0xff);
}

function invalid(why: string): CountersignError {
  return new CountersignError("image-invalid", `the image is no whole esp_secure_cert partition: ${why}`);
}
