import { CountersignError } from "../domain/errors.ts";
import type { RangeReader } from "./format.ts";

/** A reader over bytes in memory; reads are views. */
export function bytesReader(image: Uint8Array): RangeReader {
  // Buffer's `slice` is a view: a template that copies what it read would write into the image.
  const bytes = new Uint8Array(image.buffer, image.byteOffset, image.length);
  return {
    size: bytes.length,
    read(offset, length) {
      if (offset < 0 || length < 0 || offset + length > bytes.length) {
        throw new RangeError(`read of ${length} bytes at ${offset} is outside an image of ${bytes.length} bytes`);
      }
      return bytes.subarray(offset, offset + length);
    },
  };
}

/** Up to `length` bytes from `offset`, fewer at the end of the image. */
export async function readUpTo(reader: RangeReader, offset: number, length: number): Promise<Uint8Array> {
  const available = Math.max(0, Math.min(length, reader.size - offset));
  return available === 0 ? new Uint8Array(0) : await reader.read(offset, available);
}

/** The whole image. @throws CountersignError `input-too-large` above `limit` bytes */
export async function readAll(reader: RangeReader, limit: number): Promise<Uint8Array> {
  if (reader.size > limit) {
    throw new CountersignError(
      "input-too-large",
      `the image has ${reader.size} bytes; at most ${limit} are taken for this format`,
      { details: { size: reader.size, limit } },
    );
  }
  return await readUpTo(reader, 0, reader.size);
}

/** Reads an image piece by piece without leaving a piece behind each time. */
export class PieceReader {
  readonly #reader: RangeReader;
  #buffer = new Uint8Array(0);

  constructor(reader: RangeReader) {
    this.#reader = reader;
  }

  /** As `readUpTo`; what it gives is valid until the next call. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const reader = this.#reader;
    if (reader.readInto === undefined) return await readUpTo(reader, offset, length);
    const available = Math.max(0, Math.min(length, reader.size - offset));
    if (this.#buffer.length < available) this.#buffer = new Uint8Array(available);
    const piece = this.#buffer.subarray(0, available);
    if (available > 0) await reader.readInto(offset, piece);
    return piece;
  }
}
