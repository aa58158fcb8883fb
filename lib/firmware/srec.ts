import { utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { Patch } from "./format.ts";
import type { ChainPlace } from "./memory.ts";
import { recordFormat } from "./record-format.ts";
import { insertionPoint, linesHolding, mergeTouching, removals, usualLength, type RecordLine } from "./record-lines.ts";
import {
  addressLimit,
  formatSrecord,
  isCount,
  isData,
  isSrecord,
  maxLength,
  parseSrec,
  srecMemory,
  type SrecImage,
} from "./srec-records.ts";

/**
 * Motorola S-records with the chain at a target address. The writer adds lines (or takes out those of a chain it
 * replaces) and sets the count record, where there is one; all other lines stay byte for byte.
 */
export const srec = recordFormat({
  name: "srec",
  extension: "srec",
  summary: "Motorola S-records; --offset is the target address, --length what the layout reserves there",
  isRecord: isSrecord,
  parse: parseSrec,
  memory: srecMemory,
  writer(image, place) {
    const writer = new Writer(image, place);
    return (chainBytes) => writer.patches(chainBytes);
  },
});

class Writer {
  readonly #image: SrecImage;
  readonly #place: ChainPlace;
  readonly #width: number;
  readonly #type: number;
  readonly #dataRecords: number;
  readonly #counts: readonly RecordLine[];
  #removed: readonly RecordLine[] | undefined;
  #at: RecordLine | undefined;

  constructor(image: SrecImage, place: ChainPlace) {
    this.#image = image;
    this.#place = place;
    this.#width = usualLength(image.records, 16);
    this.#type = usualType(image.records);
    this.#dataRecords = image.records.filter(({ type }) => isData(type)).length;
    this.#counts = image.records.filter(({ type }) => isCount(type));
  }

  patches(chainBytes: Uint8Array): Patch[] {
    const { records, lineEnding } = this.#image;
    const { here, offset } = this.#place;
    const removed = (this.#removed ??= linesHolding(records, here));
    this.#at ??= removed.length > 0 ? removed[0]! : records[insertionPoint(records, offset)]!;
    const at = this.#at;
    const lines = this.#lines(chainBytes);
    const patches: Patch[] = [
      { offset: at.start, remove: 0, insert: utf8(lines.map((line) => line + lineEnding).join("")) },
      ...removals(removed),
    ];
    const total = this.#dataRecords + lines.length - removed.length;
    for (const count of this.#counts) patches.push(countPatch(count, total, lineEnding));
    return mergeTouching(patches.sort((a, b) => a.offset - b.offset));
  }

  /** In the image's own record type, or the next wider one that has the addresses. */
  #lines(chainBytes: Uint8Array): string[] {
    const { offset } = this.#place;
    let type = this.#type;
    while (type < 3 && offset + chainBytes.length > addressLimit(type)) type++;
    const lines: string[] = [];
    const width = Math.min(this.#width, maxLength(type));
    for (let at = 0; at < chainBytes.length;) {
      const data = chainBytes.subarray(at, at + width - ((offset + at) % width));
      lines.push(formatSrecord(type, offset + at, data));
      at += data.length;
    }
    return lines;
  }
}

function countPatch(record: RecordLine, count: number, lineEnding: string): Patch {
  if (count >= addressLimit(6)) {
    throw new CountersignError("image-invalid", `no S6 record can count ${count} data records; leave it out`);
  }
  const type = record.type === 5 && count < addressLimit(5) ? 5 : 6;
  const insert = utf8(formatSrecord(type, count, new Uint8Array(0)) + lineEnding);
  return { offset: record.start, remove: record.end - record.start, insert };
}

/** The most frequent data record type; S3 in an image without data. */
function usualType(records: readonly RecordLine[]): number {
  const counts = [0, 0, 0, 0];
  for (const { type, length } of records) if (length > 0) counts[type]!++;
  const most = Math.max(...counts);
  return most === 0 ? 3 : counts.indexOf(most);
}
