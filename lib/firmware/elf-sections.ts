import { CountersignError } from "../domain/errors.ts";
import type { RangeReader } from "./format.ts";
import { readUpTo } from "./reader.ts";

/** ELF (System V gABI, chapters 4 and 5), both classes and byte orders: the tables, read in ranges. */

export const SHT_NULL = 0;
export const SHT_PROGBITS = 1;
export const SHT_NOBITS = 8;
export const SHF_ALLOC = 0x2;
export const SHF_EXECINSTR = 0x4;
export const SHF_COMPRESSED = 0x800;
export const ET_EXEC = 2;
export const ET_DYN = 3;

const PT_LOAD = 1;
/** more than any linker writes; bounds what is read for a hostile header */
const MAX_TABLE_BYTES = 4 << 20;

export interface Section {
  readonly name: string;
  readonly type: number;
  readonly flags: number;
  readonly address: bigint;
  /** in the file, bytes */
  readonly offset: number;
  readonly size: number;
}

/** A PT_LOAD entry. */
export interface Segment {
  readonly offset: number;
  readonly address: bigint;
  readonly fileSize: number;
}

export interface Elf {
  readonly type: number;
  readonly sections: readonly Section[];
  readonly segments: readonly Segment[];
  /** file ranges of the header and of both tables, which no section may touch */
  readonly tables: readonly { readonly offset: number; readonly size: number }[];
}

export function hasElfMagic(head: Uint8Array): boolean {
  return head[0] === 0x7f && head[1] === 0x45 && head[2] === 0x4c && head[3] === 0x46;
}

/** @throws CountersignError `image-invalid` */
export async function readElf(reader: RangeReader): Promise<Elf> {
  const head = await readUpTo(reader, 0, 64);
  if (!hasElfMagic(head)) throw invalid("it doesn't start with 7F 45 4C 46");
  const wide = head[4] === 2;
  if ((head[4] !== 1 && !wide) || (head[5] !== 1 && head[5] !== 2)) throw invalid("its class or byte order is unknown");
  const headerSize = wide ? 64 : 52;
  if (head.length < headerSize) throw invalid("it is cut off");
  const fields = new Fields(head, head[5] === 1, wide);

  const at = wide
    ? { phoff: 32, shoff: 40, phentsize: 54, phnum: 56, shentsize: 58, shnum: 60, shstrndx: 62 }
    : { phoff: 28, shoff: 32, phentsize: 42, phnum: 44, shentsize: 46, shnum: 48, shstrndx: 50 };
  const entry = { program: wide ? 56 : 32, section: wide ? 64 : 40 };
  const programs = { offset: fields.word(at.phoff), count: fields.u16(at.phnum), size: fields.u16(at.phentsize) };
  const headers = { offset: fields.word(at.shoff), count: fields.u16(at.shnum), size: fields.u16(at.shentsize) };
  if (programs.count > 0 && programs.size !== entry.program) throw invalid("its program headers have an unknown size");
  if (headers.count > 0 && headers.size !== entry.section) throw invalid("its section headers have an unknown size");
  if (headers.count === 0)
    throw invalid("it has no section headers: it was stripped of them, so no section has a name");

  const programTable = await table(reader, programs.offset, programs.count * entry.program, "program headers");
  const sectionTable = await table(reader, headers.offset, headers.count * entry.section, "section headers");
  const raw = Array.from({ length: headers.count }, (_, i) =>
    readSection(new Fields(sectionTable.subarray(i * entry.section), fields.little, wide)),
  );
  const strings = raw[fields.u16(at.shstrndx)];
  if (strings === undefined) throw invalid("its section names are missing");
  const names = await table(reader, strings.offset, strings.size, "section names");
  return {
    type: fields.u16(16),
    sections: raw.map(({ nameAt, ...section }) => ({ name: nameFrom(names, nameAt), ...section })),
    segments: Array.from({ length: programs.count }, (_, i) =>
      readSegment(new Fields(programTable.subarray(i * entry.program), fields.little, wide)),
    ).filter((segment) => segment !== undefined),
    tables: [
      { offset: 0, size: headerSize },
      { offset: programs.offset, size: programTable.length },
      { offset: headers.offset, size: sectionTable.length },
    ],
  };
}

function readSection(fields: Fields): Omit<Section, "name"> & { nameAt: number } {
  const { wide } = fields;
  return {
    nameAt: fields.u32(0),
    type: fields.u32(4),
    flags: fields.word(8),
    address: fields.bigWord(wide ? 16 : 12),
    offset: fields.word(wide ? 24 : 16),
    size: fields.word(wide ? 32 : 20),
  };
}

function readSegment(fields: Fields): Segment | undefined {
  if (fields.u32(0) !== PT_LOAD) return undefined;
  const { wide } = fields;
  return {
    offset: fields.word(wide ? 8 : 4),
    address: fields.bigWord(wide ? 16 : 8),
    fileSize: fields.word(wide ? 32 : 16),
  };
}

async function table(reader: RangeReader, offset: number, size: number, what: string): Promise<Uint8Array> {
  if (size > MAX_TABLE_BYTES) throw invalid(`its ${what} take ${size} bytes`);
  if (offset + size > reader.size) throw invalid(`its ${what} are cut off`);
  return await readUpTo(reader, offset, size);
}

function nameFrom(names: Uint8Array, at: number): string {
  const end = names.indexOf(0, at);
  if (at >= names.length || end < 0) throw invalid("a section's name is cut off");
  return String.fromCharCode(...names.subarray(at, Math.min(end, at + 256)));
}

/** Numbers in the file's byte order; `word` has the file's width. */
class Fields {
  readonly little: boolean;
  readonly wide: boolean;
  readonly #view: DataView;

  constructor(bytes: Uint8Array, little: boolean, wide: boolean) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.little = little;
    this.wide = wide;
  }

  u16(at: number): number {
    return this.#view.getUint16(at, this.little);
  }

  u32(at: number): number {
    return this.#view.getUint32(at, this.little);
  }

  bigWord(at: number): bigint {
    return this.wide ? this.#view.getBigUint64(at, this.little) : BigInt(this.u32(at));
  }

  /** Offsets and sizes: what doesn't fit a number is far behind the end of any file. */
  word(at: number): number {
    return Number(this.bigWord(at));
  }
}

function invalid(why: string): CountersignError {
  return new CountersignError("image-invalid", `the image is no whole ELF file: ${why}`);
}
