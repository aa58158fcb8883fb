import { fromUtf8, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { crc32 } from "./crc32.ts";
import { hex } from "./hexadecimal.ts";

/**
 * Espressif's NVS, version 2: pages of 4,096 bytes with a header (state, sequence number, version, CRC), a bitmap of two
 * bits an entry, and 126 entries of 32 bytes. An item is a header entry and, for strings and blob chunks, the entries of
 * its data behind it. Little-endian; checksums as in esp_secure_cert.
 */

export const PAGE = 4096;
const ENTRY = 32;
const ENTRIES_AT = 64;
export const ENTRIES = 126;
const VERSION_2 = 0xfe;
const STATE = { empty: 0xffffffff, active: 0xfffffffe, full: 0xfffffffc, freeing: 0xfffffff8, corrupt: 0xfffffff0 };
const [EMPTY, WRITTEN, ERASED] = [3, 2, 0];
const SEED = 0xffffffff;
const NO_CHUNK = 0xff;
/** The index of namespaces: its items are their names. */
const NAMESPACES = 0;

export const NVS_TYPE = { u8: 0x01, string: 0x21, chunk: 0x42, index: 0x48 } as const;
/** Types whose data lies in the entries behind their header; 0x41 is the blob of version 1. */
const VARIABLE = new Set<number>([NVS_TYPE.string, 0x41, NVS_TYPE.chunk]);

export interface NvsItem {
  /** of its header, in the partition */
  readonly at: number;
  readonly page: number;
  readonly entry: number;
  readonly span: number;
  readonly namespace: number;
  readonly type: number;
  readonly chunk: number;
  readonly key: string;
  /** the eight bytes of the header, or the data behind it */
  readonly data: Uint8Array;
}

export interface NvsPage {
  /** of its first byte */
  readonly at: number;
  readonly state: "empty" | "active" | "full";
  readonly sequence: number;
  /** the first entry behind all that were ever written */
  readonly nextFree: number;
}

export interface NvsPartition {
  readonly bytes: Uint8Array;
  readonly pages: readonly NvsPage[];
  /** oldest page first */
  readonly items: readonly NvsItem[];
}

/** Whether a page's header is one of this version and whole. */
export function isNvsPage(page: Uint8Array): boolean {
  if (page.length < ENTRIES_AT) return false;
  const view = viewOf(page);
  const state = view.getUint32(0, true);
  return (
    (state === STATE.active || state === STATE.full) && page[8] === VERSION_2 && headerCrc(page) === crcAt(page, 28)
  );
}

/** @throws CountersignError `image-invalid`, `image-encrypted` */
export function parseNvs(bytes: Uint8Array): NvsPartition {
  if (bytes.length % PAGE !== 0 || bytes.length < 3 * PAGE) {
    throw invalid(`it has ${bytes.length} bytes; an NVS partition is three or more whole pages of ${PAGE}`);
  }
  const pages: NvsPage[] = [];
  for (let at = 0; at < bytes.length; at += PAGE) pages.push(readPage(bytes.subarray(at, at + PAGE), at));
  const used = pages.filter(({ state }) => state !== "empty").sort((a, b) => a.sequence - b.sequence);
  if (used.some((page, i) => i > 0 && page.sequence === used[i - 1]!.sequence)) {
    throw invalid("two of its pages have the same sequence number");
  }
  if (used.filter(({ state }) => state === "active").length > 1) throw invalid("two of its pages are active");
  const items: NvsItem[] = [];
  let broken: NvsItem | undefined;
  for (const page of used) {
    for (const item of itemsOf(bytes, page)) {
      if (item.whole) items.push(item);
      else broken ??= item;
    }
  }
  if (broken !== undefined && items.length === 0) {
    throw new CountersignError(
      "image-encrypted",
      "no entry of the NVS partition has a right checksum: it is encrypted; inject the chain before it is encrypted",
    );
  }
  if (broken !== undefined) throw invalid(`the checksum of the entry at ${hex(broken.at)} is wrong`);
  return { bytes, pages, items };
}

/** The number of a namespace, or undefined when nothing was stored under it yet. */
export function namespaceIndex(items: readonly NvsItem[], name: string): number | undefined {
  return items.find((item) => item.namespace === NAMESPACES && item.type === NVS_TYPE.u8 && item.key === name)?.data[0];
}

export function isNamespaceEntry({ namespace, type }: NvsItem): boolean {
  return namespace === NAMESPACES && type === NVS_TYPE.u8;
}

/** Appends items to a copy of a partition, as the chip's own library would. */
export class NvsWriter {
  readonly bytes: Uint8Array;
  readonly #pages: { at: number; state: "empty" | "active" | "full"; sequence: number; nextFree: number }[];
  readonly #touched = new Set<number>();
  /** [from, to) of what was appended */
  #from = Number.POSITIVE_INFINITY;
  #to = 0;

  constructor({ bytes, pages }: NvsPartition) {
    this.bytes = new Uint8Array(bytes);
    this.#pages = pages.map((page) => ({ ...page }));
  }

  /** Offsets of the pages that were changed. */
  get touched(): number[] {
    return [...this.#touched].sort((a, b) => a - b);
  }

  /** From the first byte that was appended to the last. */
  get appended(): { offset: number; length: number } {
    return { offset: this.#from, length: this.#to - this.#from };
  }

  addNamespace(name: string, index: number): void {
    this.#append({ namespace: NAMESPACES, type: NVS_TYPE.u8, chunk: NO_CHUNK, key: name }, Uint8Array.of(index));
    this.#from = Number.POSITIVE_INFINITY;
  }

  addString(namespace: number, key: string, data: Uint8Array): void {
    this.#append({ namespace, type: NVS_TYPE.string, chunk: NO_CHUNK, key }, sizeAndCrc(data), data);
  }

  addBlob(namespace: number, key: string, data: Uint8Array): void {
    let chunk = 0;
    for (let at = 0; at < data.length; chunk++) {
      const room = (this.#room(2) - 1) * ENTRY;
      const part = data.subarray(at, at + room);
      this.#append({ namespace, type: NVS_TYPE.chunk, chunk, key }, sizeAndCrc(part), part);
      at += part.length;
    }
    const index = new Uint8Array(8).fill(0xff);
    viewOf(index).setUint32(0, data.length, true);
    index[4] = chunk;
    index[5] = 0;
    this.#append({ namespace, type: NVS_TYPE.index, chunk: NO_CHUNK, key }, index);
  }

  erase({ page, entry, span }: NvsItem): void {
    for (let i = entry; i < entry + span; i++) setEntryState(this.bytes.subarray(page, page + PAGE), i, ERASED);
    this.#touched.add(page);
  }

  /** Free entries of the active page; a new page where it has fewer than `needed`. */
  #room(needed: number): number {
    return ENTRIES - this.#active(needed).nextFree;
  }

  #append(
    item: { namespace: number; type: number; chunk: number; key: string },
    fields: Uint8Array,
    data: Uint8Array = new Uint8Array(0),
  ): void {
    const span = 1 + Math.ceil(data.length / ENTRY);
    const page = this.#active(span);
    const at = page.at + ENTRIES_AT + page.nextFree * ENTRY;
    const header = this.bytes.subarray(at, at + ENTRY);
    header.set([item.namespace, item.type, span, item.chunk]);
    header.fill(0, 8, 24);
    header.set(utf8(item.key), 8);
    header.fill(0xff, 24);
    header.set(fields, 24);
    viewOf(header).setUint32(4, entryCrc(header), true);
    this.bytes.set(data, at + ENTRY);
    for (let i = 0; i < span; i++)
      setEntryState(this.bytes.subarray(page.at, page.at + PAGE), page.nextFree + i, WRITTEN);
    page.nextFree += span;
    this.#touched.add(page.at);
    this.#from = Math.min(this.#from, at);
    this.#to = Math.max(this.#to, at + span * ENTRY);
  }

  #active(needed: number) {
    const active = this.#pages.find(({ state }) => state === "active");
    if (active !== undefined && active.nextFree + needed <= ENTRIES) return active;
    const empty = this.#pages.filter(({ state }) => state === "empty");
    // The chip's library needs one erased page to move items to.
    if (empty.length < 2) {
      throw new CountersignError(
        "image-region-too-small",
        "the NVS partition has no room for the chain: one page has to stay erased; use a larger partition",
        { details: { size: this.bytes.length } },
      );
    }
    if (active !== undefined) {
      active.state = "full";
      viewOf(this.bytes).setUint32(active.at, STATE.full, true);
      this.#touched.add(active.at);
    }
    const fresh = empty[0]!;
    fresh.state = "active";
    fresh.sequence = 1 + Math.max(-1, ...this.#pages.filter((page) => page !== fresh).map(({ sequence }) => sequence));
    const page = this.bytes.subarray(fresh.at, fresh.at + PAGE);
    viewOf(page).setUint32(0, STATE.active, true);
    viewOf(page).setUint32(4, fresh.sequence, true);
    page[8] = VERSION_2;
    viewOf(page).setUint32(28, headerCrc(page), true);
    this.#touched.add(fresh.at);
    return fresh;
  }
}

function readPage(page: Uint8Array, at: number): NvsPage {
  const view = viewOf(page);
  const state = view.getUint32(0, true);
  if (state === STATE.empty) {
    if (page.some((byte) => byte !== 0xff)) throw invalid(`the page at ${hex(at)} has no header and isn't erased`);
    return { at, state: "empty", sequence: -1, nextFree: 0 };
  }
  if (state === STATE.freeing || state === STATE.corrupt) {
    throw invalid(`the page at ${hex(at)} was being moved or is corrupt: let the chip mount the partition first`);
  }
  if (state !== STATE.active && state !== STATE.full) throw invalid(`the page at ${hex(at)} has no state of NVS`);
  if (headerCrc(page) !== crcAt(page, 28)) throw invalid(`the checksum of the page at ${hex(at)} is wrong`);
  if (page[8] !== VERSION_2) throw invalid(`the page at ${hex(at)} isn't of NVS version 2`);
  let nextFree = ENTRIES;
  while (nextFree > 0 && entryState(page, nextFree - 1) === EMPTY) nextFree--;
  if (page.subarray(ENTRIES_AT + nextFree * ENTRY).some((byte) => byte !== 0xff)) {
    throw invalid(`the page at ${hex(at)} holds data behind its last entry`);
  }
  const sequence = view.getUint32(4, true);
  return { at, state: state === STATE.active ? "active" : "full", sequence, nextFree };
}

function* itemsOf(bytes: Uint8Array, page: NvsPage): Generator<NvsItem & { whole: boolean }> {
  const view = bytes.subarray(page.at, page.at + PAGE);
  for (let entry = 0; entry < page.nextFree;) {
    const state = entryState(view, entry);
    if (state !== WRITTEN) {
      entry++;
      continue;
    }
    const at = ENTRIES_AT + entry * ENTRY;
    const header = view.subarray(at, at + ENTRY);
    const [namespace, type, span, chunk] = [header[0]!, header[1]!, header[2]!, header[3]!];
    const size = viewOf(header).getUint16(24, true);
    const variable = VARIABLE.has(type);
    const expected = variable ? 1 + Math.ceil(size / ENTRY) : 1;
    const data = variable ? view.subarray(at + ENTRY, at + ENTRY + size) : header.subarray(24);
    const whole =
      span === expected &&
      entry + span <= page.nextFree &&
      entryCrc(header) === crcAt(header, 4) &&
      (!variable || crc32(data, SEED) === crcAt(header, 28));
    yield { at: page.at + at, page: page.at, entry, span, namespace, type, chunk, key: keyOf(header), data, whole };
    entry += whole ? span : 1;
  }
}

function keyOf(header: Uint8Array): string {
  const bytes = header.subarray(8, 24);
  const end = bytes.indexOf(0);
  try {
    return fromUtf8(bytes.subarray(0, end < 0 ? 16 : end));
  } catch {
    return "";
  }
}

/** The eight bytes of a header whose data follows: size, reserved, CRC. */
function sizeAndCrc(data: Uint8Array): Uint8Array {
  const fields = new Uint8Array(8).fill(0xff);
  viewOf(fields).setUint16(0, data.length, true);
  viewOf(fields).setUint32(4, crc32(data, SEED), true);
  return fields;
}

function entryState(page: Uint8Array, entry: number): number {
  return (page[32 + (entry >> 2)]! >> (2 * (entry & 3))) & 3;
}

function setEntryState(page: Uint8Array, entry: number, state: number): void {
  const at = 32 + (entry >> 2);
  const shift = 2 * (entry & 3);
  page[at] = (page[at]! & ~(3 << shift)) | (state << shift);
}

function headerCrc(page: Uint8Array): number {
  return crc32(page.subarray(4, 28), SEED);
}

function entryCrc(header: Uint8Array): number {
  const covered = new Uint8Array(28);
  covered.set(header.subarray(0, 4));
  covered.set(header.subarray(8, 32), 4);
  return crc32(covered, SEED);
}

function crcAt(bytes: Uint8Array, at: number): number {
  return viewOf(bytes).getUint32(at, true);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function invalid(why: string): CountersignError {
  return new CountersignError("image-invalid", `the image is no whole NVS partition: ${why}`);
}
