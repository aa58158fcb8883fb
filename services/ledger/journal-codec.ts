import { crc32 } from "node:zlib";
import { CountersignError } from "../../lib/domain/errors.ts";
import { decodeBundle, encodeBundle } from "../../lib/ledger/tiles.ts";

/**
 * The bytes of a journal file: a header, then records, then nothing or zeros that were there before.
 *
 *     file   "cs-jrnl1", id (16 random bytes), CRC-32 of both
 *     record id, from, to (uint64), lengths of note, entries and blobs (uint32), CRC-32 of all these;
 *            note, entries as a bundle (uint16 length each), blobs (uint32 length each), CRC-32 of all these
 *
 * Integers are big-endian. The id begins every record, so where one is damaged the next is found again: nothing that
 * somebody had logged can look like it. The CRCs tell what was torn; whether the entries are those that were signed is
 * told by the root in the note.
 */

/** What one checkpoint adds to the copy: entries [from, to), none when they are equal. */
export interface JournalRecord {
  readonly from: number;
  readonly to: number;
  /** the signed checkpoint of size `to` */
  readonly note: Uint8Array;
  readonly entries: readonly Uint8Array[];
  readonly blobs: readonly Uint8Array[];
}

const MAGIC = Buffer.from("cs-jrnl1");
export const ID_BYTES = 16;
export const FILE_HEADER_BYTES = MAGIC.length + ID_BYTES + 4;
const HEADER_BYTES = ID_BYTES + 8 + 8 + 4 + 4 + 4 + 4;
const CRC_BYTES = 4;

export function encodeFileHeader(id: Uint8Array): Uint8Array {
  const head = Buffer.concat([MAGIC, id]);
  return Buffer.concat([head, uint32(crc32(head))]);
}

/** @throws CountersignError `tile-invalid` for an entry that no bundle takes */
export function encodeRecord(id: Uint8Array, { from, to, note, entries, blobs }: JournalRecord): Uint8Array {
  const bundle = encodeBundle(entries);
  const blobBytes = blobs.reduce((sum, { length }) => sum + 4 + length, 0);
  const header = Buffer.alloc(HEADER_BYTES);
  header.set(id);
  header.writeBigUInt64BE(BigInt(from), 16);
  header.writeBigUInt64BE(BigInt(to), 24);
  header.writeUInt32BE(note.length, 32);
  header.writeUInt32BE(bundle.length, 36);
  header.writeUInt32BE(blobBytes, 40);
  header.writeUInt32BE(crc32(header.subarray(0, 44)), 44);
  const parts = [header, note, bundle, ...blobs.flatMap((blob) => [uint32(blob.length), blob])];
  let crc = 0;
  for (const part of parts.slice(1)) crc = crc32(part, crc);
  return Buffer.concat([...parts, uint32(crc)]);
}

/**
 * The records of a file, in order; they share its memory. A last one that isn't whole was never published, since that
 * waits for the disk: it is left out.
 * @throws CountersignError `input-invalid` when what isn't whole is not the last
 */
export function* decodeJournal(file: Uint8Array, name: string): Generator<JournalRecord, void, undefined> {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.length);
  const head = bytes.subarray(0, FILE_HEADER_BYTES);
  const id = head.subarray(MAGIC.length, MAGIC.length + ID_BYTES);
  if (head.length < FILE_HEADER_BYTES || !head.equals(encodeFileHeader(id))) {
    // The header is on the disk before the first record is written.
    if (bytes.subarray(FILE_HEADER_BYTES).every((byte) => byte === 0)) return;
    throw damaged(name, 0);
  }
  for (let at = FILE_HEADER_BYTES; ;) {
    const found = recordAt(bytes, at, id);
    if (found === undefined) {
      // One record is written at a time: whatever follows another was written after that was durable.
      for (let next = at; (next = bytes.indexOf(id, next + 1)) >= 0;) {
        if (lengthsAt(bytes, next, id) !== undefined) throw damaged(name, at);
      }
      return;
    }
    yield found.record;
    at = found.end;
  }
}

function lengthsAt(bytes: Buffer, at: number, id: Buffer): { note: number; bundle: number; blobs: number } | undefined {
  const header = bytes.subarray(at, at + HEADER_BYTES);
  if (header.length < HEADER_BYTES || !header.subarray(0, ID_BYTES).equals(id)) return undefined;
  if (header.readUInt32BE(44) !== crc32(header.subarray(0, 44))) return undefined;
  return { note: header.readUInt32BE(32), bundle: header.readUInt32BE(36), blobs: header.readUInt32BE(40) };
}

function recordAt(bytes: Buffer, at: number, id: Buffer): { record: JournalRecord; end: number } | undefined {
  const lengths = lengthsAt(bytes, at, id);
  if (lengths === undefined) return undefined;
  const noteAt = at + HEADER_BYTES;
  const bundleAt = noteAt + lengths.note;
  const blobsAt = bundleAt + lengths.bundle;
  const crcAt = blobsAt + lengths.blobs;
  if (crcAt + CRC_BYTES > bytes.length || bytes.readUInt32BE(crcAt) !== crc32(bytes.subarray(noteAt, crcAt)))
    return undefined;
  const [from, to] = [Number(bytes.readBigUInt64BE(at + 16)), Number(bytes.readBigUInt64BE(at + 24))];
  try {
    const entries = decodeBundle(bytes.subarray(bundleAt, blobsAt), to - from);
    const blobs = decodeBlobs(bytes.subarray(blobsAt, crcAt));
    return {
      record: { from, to, note: bytes.subarray(noteAt, bundleAt), entries, blobs },
      end: crcAt + CRC_BYTES,
    };
  } catch {
    return undefined;
  }
}

function decodeBlobs(bytes: Buffer): Uint8Array[] {
  const blobs: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = at + 4 + bytes.readUInt32BE(at);
    if (end > bytes.length) throw new RangeError("a blob ends after the blobs do");
    blobs.push(bytes.subarray(at + 4, end));
    at = end;
  }
  return blobs;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function damaged(name: string, at: number): CountersignError {
  return new CountersignError(
    "input-invalid",
    `${name}, a journal of the ledger's copy, is damaged at byte ${at}, before records that are whole: move it away, ` +
      "and the copy is written again from the database; where that was lost too, rebuild from a mirror of the ledger",
  );
}
