import { equalBytes, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { parseCertificate } from "../pki/certificate.ts";
import { deviceChain, encodeChain, findChains, type FoundChain } from "./chain.ts";
import type {
  Extraction,
  FirmwareFormat,
  FirmwareTemplate,
  Injection,
  Layout,
  Patch,
  RangeReader,
  Region,
} from "./format.ts";
import {
  ADDRESS_SPACE,
  DATA,
  EXTENDED_LINEAR,
  EXTENDED_SEGMENT,
  formatRecord,
  isRecord,
  MAX_HEX_BYTES,
  parseHex,
  type Base,
  type HexImage,
  type HexRecord,
  type Segment,
} from "./hex-records.ts";
import { readAll, readUpTo } from "./reader.ts";

/**
 * Intel HEX with the chain at a target address. The writer only adds lines (or takes out those of a chain it
 * replaces): all other lines, start-address records and line endings included, stay byte for byte.
 */
export const intelHex: FirmwareFormat = {
  name: "intel-hex",
  extension: "hex",
  summary: "Intel HEX; --offset is the target address, --length what the layout reserves there",
  takes: ["offset", "length"],

  async detect(reader) {
    const head = await readUpTo(reader, 0, 1024);
    const lines = splitLines(head).filter((line) => line.some((byte) => byte !== 0x20 && byte !== 0x09));
    return lines[0] !== undefined && isRecord(lines[0]);
  },

  async open(reader, layout) {
    const { offset, length } = layout;
    if (offset === undefined) {
      throw new CountersignError("usage", "an intel-hex image needs the chain's target address: give --offset");
    }
    if (!Number.isInteger(offset) || offset < 0 || offset >= ADDRESS_SPACE) {
      throw new CountersignError("usage", `the offset must be a target address below 4 GiB, not ${offset}`);
    }
    if (length !== undefined && (!Number.isInteger(length) || length < 1 || offset + length > ADDRESS_SPACE)) {
      throw new CountersignError("usage", `the length must be 1 or more and end below 4 GiB, not ${length}`);
    }
    const template = new Template(await readImage(reader), layout, offset);
    template.checkRegion(length ?? 1);
    return template;
  },

  async extract(reader, layout = {}) {
    return extractFrom(await readImage(reader), layout.offset);
  },
};

class Template implements FirmwareTemplate {
  readonly #image: HexImage;
  readonly #layout: Layout;
  readonly #offset: number;
  readonly #held: readonly FoundChain[];
  /** the chain that lies exactly where the layout puts one */
  readonly #here: FoundChain | undefined;

  constructor(image: HexImage, layout: Layout, offset: number) {
    this.#image = image;
    this.#layout = layout;
    this.#offset = offset;
    this.#held = chainsIn(image);
    this.#here = this.#held.find(({ address }) => address === offset);
  }

  /** @throws CountersignError `image-region-overlap` when the region holds anything but a chain at its start */
  checkRegion(length: number): void {
    const from = this.#offset + (this.#here?.bytes.length ?? 0);
    const used = firstUsed(this.#image.segments, from, this.#offset + length);
    if (used === undefined) return;
    throw new CountersignError(
      "image-region-overlap",
      `the region ${range(this.#offset, length)} overlaps the image's own data at ${hex(used)}; choose free memory`,
      { details: { offset: this.#offset, length, used } },
    );
  }

  async inject(chain: readonly Uint8Array[]): Promise<Injection> {
    const chainBytes = encodeChain(chain);
    const reserved = this.#layout.length ?? ADDRESS_SPACE - this.#offset;
    if (chainBytes.length > reserved) {
      throw new CountersignError(
        "image-region-too-small",
        `the chain has ${chainBytes.length} bytes, the region at ${hex(this.#offset)} ${reserved}; reserve more`,
        { details: { needed: chainBytes.length, available: reserved } },
      );
    }
    const old = this.#here?.bytes.length ?? 0;
    const region = { offset: this.#offset, length: Math.max(chainBytes.length, old) };
    const same = this.#here !== undefined && equalBytes(this.#here.bytes, chainBytes);
    if (!same && this.#here !== undefined && this.#layout.replace !== true) throw this.#holdsOther(this.#here);
    this.checkRegion(region.length);
    this.#refuseAmbiguity(chain[0]!);
    return { patches: same ? [] : this.#patches(chainBytes), region, encoding: "pem-nul", chainBytes };
  }

  async readBack(written: RangeReader, injection: Injection): Promise<Extraction> {
    const region = injection.region!;
    const image = await readImage(written);
    const [before, after] = [this.#image.segments, image.segments].map((segments) => outside(segments, region));
    const same =
      before!.length === after!.length &&
      before!.every((one, i) => one.address === after![i]!.address && equalBytes(one.bytes, after![i]!.bytes));
    if (!same) {
      throw new CountersignError(
        "read-back-mismatch",
        `the written image differs from the original outside the region ${range(region.offset, region.length)}`,
      );
    }
    return extractFrom(image, undefined);
  }

  /** Whoever reads the image later must find this chain and no other. */
  #refuseAmbiguity(leaf: Uint8Array): void {
    const others = this.#held.filter((found) => found !== this.#here);
    const leafIsDevice = parseCertificate(leaf).basicConstraints?.ca !== true;
    const other = others.find((found) => found.leafIsDevice || !leafIsDevice);
    if (other !== undefined) throw this.#holdsOther(other);
  }

  #holdsOther(other: FoundChain): CountersignError {
    const cn = parseCertificate(other.chain[0]!).subject.cn ?? "a leaf without CN";
    return new CountersignError(
      "image-holds-other-chain",
      `the image holds another chain at ${hex(other.address)} (${cn}); start from an image without one` +
        (other === this.#here ? ", or give --replace to put the new chain in its place" : ""),
      { details: { offset: other.address } },
    );
  }

  #patches(chainBytes: Uint8Array): Patch[] {
    const { records } = this.#image;
    const removed = this.#here === undefined ? [] : this.#recordsOf(this.#here);
    const at = removed.length > 0 ? records.indexOf(removed[0]!) : insertionPoint(records, this.#offset);
    const gone = new Set(removed);
    const next = records.slice(at).find((record) => !gone.has(record) && (record.type === DATA || changesBase(record)));
    const lines = this.#lines(
      chainBytes,
      records[at - 1]?.base ?? NO_BASE,
      next?.type === DATA ? next.base : undefined,
    );
    const insert = utf8(lines.map((line) => line + this.#image.lineEnding).join(""));
    const patches: Patch[] = [{ offset: records[at]!.start, remove: 0, insert }];
    for (const { start, end } of removed) patches.push({ offset: start, remove: end - start, insert: utf8("") });
    return mergeTouching(patches);
  }

  /** The lines that hold a chain. @throws CountersignError `image-region-overlap` when one holds other data too */
  #recordsOf(found: FoundChain): HexRecord[] {
    const end = found.address + found.bytes.length;
    const lines = this.#image.records.filter(
      (record) => record.length > 0 && record.address < end && record.address + record.length > found.address,
    );
    for (const record of lines) {
      if (record.address >= found.address && record.address + record.length <= end) continue;
      throw new CountersignError(
        "image-region-overlap",
        `line ${record.line} of the image holds part of the old chain together with other data; ` +
          "start from an image without a chain",
        { details: { line: record.line } },
      );
    }
    return lines;
  }

  /** Data lines for the chain, base records where they are needed, and the base that the next data line relies on. */
  #lines(chainBytes: Uint8Array, before: Base, needed: Base | undefined): string[] {
    const lines: string[] = [];
    const width = usualWidth(this.#image.records);
    const segmented = usesSegments(this.#image.records) && this.#offset + chainBytes.length <= 0x100000;
    let base = before;
    for (let at = 0; at < chainBytes.length;) {
      const address = this.#offset + at;
      const page = address - (address % 0x10000);
      if (base.kind === "segment" ? !segmented || base.address !== page : base.address !== page) {
        base = { kind: segmented ? "segment" : "linear", address: page };
        lines.push(formatBase(base));
      }
      const room = Math.min(width - (address % width), 0x10000 - (address % 0x10000));
      const data = chainBytes.subarray(at, at + room);
      lines.push(formatRecord(DATA, address % 0x10000, data));
      at += data.length;
    }
    if (
      needed !== undefined &&
      (needed.address !== base.address || (needed.kind === "segment") !== (base.kind === "segment"))
    ) {
      lines.push(formatBase(needed));
    }
    return lines;
  }
}

const NO_BASE: Base = { kind: "none", address: 0 };

async function readImage(reader: RangeReader): Promise<HexImage> {
  return parseHex(await readAll(reader, MAX_HEX_BYTES));
}

function chainsIn(image: HexImage): FoundChain[] {
  return image.segments.flatMap(({ bytes, address }) => findChains(bytes, address));
}

function extractFrom(image: HexImage, offset: number | undefined): Extraction {
  const found = chainsIn(image);
  const chosen = offset === undefined ? deviceChain(found) : found.find(({ address }) => address === offset);
  if (chosen === undefined && found.length > 0 && offset === undefined) {
    throw new CountersignError(
      "image-chain-ambiguous",
      `the image holds certificates at ${found.map(({ address }) => hex(address)).join(", ")}, and which of them are ` +
        "the device's chain can't be told; give --offset to say so",
    );
  }
  if (chosen === undefined) {
    const where = offset === undefined ? "" : ` at ${hex(offset)}`;
    throw new CountersignError("image-no-chain", `the image holds no certificate chain${where}`);
  }
  const { address, bytes, encoding } = chosen;
  return { chainBytes: bytes.slice(), encoding, region: { offset: address, length: bytes.length } };
}

/** Before the line that comes next in address order; before the end of file where the image isn't in order. */
function insertionPoint(records: readonly HexRecord[], offset: number): number {
  let last = -1;
  let lastBelow = -1;
  let sorted = true;
  for (let i = 0; i < records.length; i++) {
    const record = records[i]!;
    if (record.length === 0) continue;
    if (last >= 0 && record.address < records[last]!.address) sorted = false;
    if (record.address < offset) lastBelow = i;
    last = i;
  }
  return (sorted ? lastBelow : last) + 1;
}

function changesBase(record: HexRecord): boolean {
  return record.type === EXTENDED_LINEAR || record.type === EXTENDED_SEGMENT;
}

function usesSegments(records: readonly HexRecord[]): boolean {
  return records.some(({ type }) => type === EXTENDED_SEGMENT) && !records.some(({ type }) => type === EXTENDED_LINEAR);
}

/** The image's most frequent data length: loaders are tested with it. */
function usualWidth(records: readonly HexRecord[]): number {
  const counts = new Uint32Array(256);
  for (const { length } of records) counts[length]!++;
  counts[0] = 0;
  const most = counts.indexOf(Math.max(...counts));
  return most > 0 ? most : 16;
}

function formatBase(base: Base): string {
  const segment = base.kind === "segment";
  const value = segment ? base.address / 16 : base.address / 0x10000;
  return formatRecord(segment ? EXTENDED_SEGMENT : EXTENDED_LINEAR, 0, Uint8Array.of(value >> 8, value & 0xff));
}

function mergeTouching(patches: readonly Patch[]): Patch[] {
  const merged: Patch[] = [];
  for (const patch of patches) {
    const last = merged.at(-1);
    if (last !== undefined && last.offset + last.remove === patch.offset && patch.insert.length === 0) {
      merged[merged.length - 1] = { ...last, remove: last.remove + patch.remove };
    } else merged.push(patch);
  }
  return merged;
}

/** The first address in [from, to) that the image writes. */
function firstUsed(segments: readonly Segment[], from: number, to: number): number | undefined {
  const segment = segments.find(({ address, bytes }) => address < to && address + bytes.length > from);
  return segment === undefined || from >= to ? undefined : Math.max(segment.address, from);
}

/** What lies in memory outside the region. */
function outside(segments: readonly Segment[], region: Region): Segment[] {
  const end = region.offset + region.length;
  return segments
    .flatMap(({ address, bytes }) => [
      { address, bytes: bytes.subarray(0, Math.max(0, region.offset - address)) },
      { address: Math.max(address, end), bytes: bytes.subarray(Math.max(0, end - address)) },
    ])
    .filter(({ bytes }) => bytes.length > 0);
}

function splitLines(bytes: Uint8Array): Uint8Array[] {
  const lines: Uint8Array[] = [];
  let start = 0;
  for (let at = 0; at <= bytes.length; at++) {
    if (at < bytes.length && bytes[at] !== 0x0a && bytes[at] !== 0x0d) continue;
    lines.push(bytes.subarray(start, at));
    start = at + 1;
  }
  return lines;
}

function range(offset: number, length: number): string {
  return `${hex(offset)}..${hex(offset + length)}`;
}

function hex(value: number): string {
  return `0x${value.toString(16).toUpperCase()}`;
}
