/**
 * Many byte strings as one parameter, cut apart by the statement that takes them, and many hashes as one result: an array
 * of bytea would be written, sent and parsed as hex text, and a row for each hash costs as much as looking it up.
 */

/** Of any size: the slice of row n is `substring($bytes::bytea FROM e - s + 1 FOR s)` with its end e and size s. */
export interface Packed {
  readonly bytes: Buffer;
  /** int[] parameters, both */
  readonly ends: string;
  readonly sizes: string;
}

export function packed(values: readonly Uint8Array[]): Packed {
  const ends: number[] = [];
  let end = 0;
  for (const { length } of values) ends.push((end += length));
  return { bytes: Buffer.concat(values, end), ends: ints(ends), sizes: ints(values.map(({ length }) => length)) };
}

/**
 * A text[] parameter. Names, digests and codes as one literal: the driver quotes and escapes value by value, with patterns,
 * which costs as much as the rest of a statement. What has to be escaped, or is missing, is left to it.
 */
export function texts(values: readonly (string | null)[]): string | readonly (string | null)[] {
  const inside = values.join('","');
  let quotes = 0;
  for (let at = inside.indexOf('"'); at !== -1; at = inside.indexOf('"', at + 1)) quotes++;
  const plain = quotes === 2 * (values.length - 1) && !inside.includes("\\") && !values.includes(null);
  return plain && values.length > 0 ? `{"${inside}"}` : values;
}

/** An int[] parameter. */
export const ints = (values: readonly number[]): string => `{${values.join(",")}}`;

/** What came as the hex of SHA-256 values, one behind the other; null stands for none, as an aggregate gives it. */
export function hexHashes(hex: string | null): string[] {
  return hex?.match(/.{64}/g) ?? [];
}

/** SHA-256 values: the slice of row n, counted from 1, is `substring($bytes::bytea FROM 32 * n - 31 FOR 32)`. */
export function packedHashes(hashes: readonly Uint8Array[]): Buffer {
  if (hashes.some(({ length }) => length !== 32)) throw new RangeError("a SHA-256 value has 32 bytes");
  return Buffer.concat(hashes, 32 * hashes.length);
}

/**
 * Hashes `h`, packed as $1, of which there are $2. What joins them does it by one look into an index each (a lateral
 * subquery with a limit): the planner takes a digest to be in many rows, until the table was analysed, and would read all
 * of it for some hundred.
 */
export const HASHES = "(SELECT substring($1::bytea FROM 32 * o - 31 FOR 32) AS h FROM generate_series(1, $2::int) o) g";

/** Hashes in hex as `HASHES` takes them. */
export const packedHex = (hashes: readonly string[]): Buffer =>
  packedHashes(hashes.map((hex) => Buffer.from(hex, "hex")));
