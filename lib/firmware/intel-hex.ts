import { utf8 } from "../domain/bytes.ts";
import type { Patch } from "./format.ts";
import {
  DATA,
  EXTENDED_LINEAR,
  EXTENDED_SEGMENT,
  formatRecord,
  hexMemory,
  isRecord,
  parseHex,
  type Base,
  type HexImage,
  type HexRecord,
} from "./hex-records.ts";
import type { ChainPlace } from "./memory.ts";
import { recordFormat } from "./record-format.ts";
import { insertionPoint, linesHolding, mergeTouching, removals, usualLength } from "./record-lines.ts";

/**
 * Intel HEX with the chain at a target address. The writer only adds lines (or takes out those of a chain it
 * replaces): all other lines, start-address records and line endings included, stay byte for byte.
 */
export const intelHex = recordFormat({
  name: "intel-hex",
  extension: "hex",
  summary: "Intel HEX; --offset is the target address, --length what the layout reserves there",
  isRecord,
  parse: parseHex,
  memory: hexMemory,
  writer(image, place) {
    const writer = new Writer(image, place);
    return (chainBytes) => writer.patches(chainBytes);
  },
});

class Writer {
  readonly #image: HexImage;
  readonly #place: ChainPlace;
  readonly #width: number;
  #site: Site | undefined;

  constructor(image: HexImage, place: ChainPlace) {
    this.#image = image;
    this.#place = place;
    this.#width = usualLength(image.records, 16);
  }

  patches(chainBytes: Uint8Array): Patch[] {
    const { at, before, needed, removed } = (this.#site ??= siteOf(this.#image.records, this.#place));
    const insert = utf8(
      this.#lines(chainBytes, before, needed)
        .map((line) => line + this.#image.lineEnding)
        .join(""),
    );
    return mergeTouching([{ offset: at, remove: 0, insert }, ...removals(removed)]);
  }

  /** Data lines for the chain, base records where they are needed, and the base that the next data line relies on. */
  #lines(chainBytes: Uint8Array, before: Base, needed: Base | undefined): string[] {
    const lines: string[] = [];
    const width = this.#width;
    const { offset } = this.#place;
    const segmented = usesSegments(this.#image.records) && offset + chainBytes.length <= 0x100000;
    let base = before;
    for (let at = 0; at < chainBytes.length;) {
      const address = offset + at;
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

/** Where new lines go. */
interface Site {
  /** in the file */
  readonly at: number;
  /** the base in effect there */
  readonly before: Base;
  /** the base that the next data line relies on */
  readonly needed: Base | undefined;
  /** the lines of a chain that is replaced */
  readonly removed: readonly HexRecord[];
}

function siteOf(records: readonly HexRecord[], { here, offset }: ChainPlace): Site {
  const removed = linesHolding(records, here);
  const at = removed.length > 0 ? records.indexOf(removed[0]!) : insertionPoint(records, offset);
  const gone = new Set(removed);
  const next = records.slice(at).find((record) => !gone.has(record) && (record.type === DATA || changesBase(record)));
  return {
    at: records[at]!.start,
    before: records[at - 1]?.base ?? NO_BASE,
    needed: next?.type === DATA ? next.base : undefined,
    removed,
  };
}

function changesBase(record: HexRecord): boolean {
  return record.type === EXTENDED_LINEAR || record.type === EXTENDED_SEGMENT;
}

function usesSegments(records: readonly HexRecord[]): boolean {
  return records.some(({ type }) => type === EXTENDED_SEGMENT) && !records.some(({ type }) => type === EXTENDED_LINEAR);
}

function formatBase(base: Base): string {
  const segment = base.kind === "segment";
  const value = segment ? base.address / 16 : base.address / 0x10000;
  return formatRecord(segment ? EXTENDED_SEGMENT : EXTENDED_LINEAR, 0, Uint8Array.of(value >> 8, value & 0xff));
}
