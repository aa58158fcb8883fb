import { CountersignError } from "../../lib/domain/errors.ts";
import { readUpTo } from "../../lib/firmware/reader.ts";
import type { RangeReader } from "../../lib/firmware/index.ts";

/** The superblock of ext2, ext3 and ext4 (Linux, Documentation/filesystems/ext4/super.rst), little-endian. */

const AT = 1024;
const SIZE = 1024;
const MAGIC = 0xef53;
const STATE_CLEAN = 1;
const INCOMPAT_RECOVER = 0x4;
const INCOMPAT_JOURNAL_DEV = 0x8;
const INCOMPAT_64BIT = 0x80;
const RO_COMPAT_ORPHAN_PRESENT = 0x10000;

export interface Superblock {
  /** bytes that the file system takes */
  readonly size: number;
  /** seconds since 1970, of the last write */
  readonly written: number;
  /** why it isn't clean, undefined when it is */
  readonly unclean: string | undefined;
}

/** Undefined when there is none. */
export async function readSuperblock(reader: RangeReader): Promise<Superblock | undefined> {
  const bytes = await readUpTo(reader, AT, SIZE);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < SIZE || view.getUint16(56, true) !== MAGIC) return undefined;
  const logBlockSize = view.getUint32(24, true);
  const incompatible = view.getUint32(96, true);
  if (logBlockSize > 6 || (incompatible & INCOMPAT_JOURNAL_DEV) !== 0) return undefined;
  const high = (incompatible & INCOMPAT_64BIT) === 0 ? 0 : view.getUint32(0x150, true);
  return {
    size: (view.getUint32(4, true) + high * 2 ** 32) * (1024 << logBlockSize),
    // Never 0: a deletion at that time would look like none.
    written: Math.max(1, view.getUint32(48, true) + view.getUint8(0x274) * 2 ** 32),
    unclean: whyUnclean(view, incompatible),
  };
}

function whyUnclean(view: DataView, incompatible: number): string | undefined {
  if ((incompatible & INCOMPAT_RECOVER) !== 0) return "its journal holds writes that aren't in place yet";
  if (view.getUint16(58, true) !== STATE_CLEAN) return "it was mounted and not unmounted, or errors were found in it";
  if (view.getUint32(0x194, true) !== 0) return "the kernel noted errors in it";
  const orphans = view.getUint32(0xe8, true) !== 0 || (view.getUint32(100, true) & RO_COMPAT_ORPHAN_PRESENT) !== 0;
  return orphans ? "it holds files that were deleted while they were open" : undefined;
}

/** @throws CountersignError `image-invalid` for anything but a whole, clean file system */
export async function checkSuperblock(reader: RangeReader): Promise<Superblock> {
  const superblock = await readSuperblock(reader);
  if (superblock === undefined) throw invalid("it has no ext4 superblock at byte 1024");
  if (superblock.size > reader.size) {
    throw invalid(`it is cut off: the file system has ${superblock.size} bytes, the file ${reader.size}`);
  }
  if (superblock.unclean === undefined) return superblock;
  throw invalid(`the file system isn't clean: ${superblock.unclean}; run e2fsck -f on it first`);
}

function invalid(why: string): CountersignError {
  return new CountersignError("image-invalid", `the image is no ext4 partition to write to: ${why}`);
}
