import { toHex } from "../../../domain/bytes.ts";
import { words } from "./column.ts";
import { KeyedHash } from "./keyed-hash.ts";
import { RowIndex } from "./row-index.ts";

const WORDS = 8;
const DIGITS = new Uint8Array(128).fill(0xff);
for (const [value, digit] of [..."0123456789abcdef"].entries()) DIGITS[digit.charCodeAt(0)] = value;

/** What is looked for, as bytes and as words: one buffer for all lookups, which never overlap. */
const sought = new Uint32Array(WORDS);
const soughtBytes = new Uint8Array(sought.buffer);

/** False for what isn't a SHA-256 value in lower-case hex. */
function seek(hex: string): boolean {
  if (hex.length !== 64) return false;
  for (let i = 0; i < 32; i++) {
    const high = DIGITS[hex.charCodeAt(2 * i)] ?? 0xff;
    const low = DIGITS[hex.charCodeAt(2 * i + 1)] ?? 0xff;
    if ((high | low) > 15) return false;
    soughtBytes[i] = 16 * high + low;
  }
  return true;
}

/** SHA-256 values in rows of 32 bytes, in the order in which they were added; found by their value. */
export class DigestTable {
  readonly #rows = words(WORDS);
  readonly #index = new RowIndex();
  readonly #hash = new KeyedHash(this.#index.seed);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The row of a digest (hex), or -1. */
  find(hex: string): number {
    return seek(hex) ? this.#index.find(this.#hashOfSought(), this.#isSought) : -1;
  }

  has(hex: string): boolean {
    return this.find(hex) >= 0;
  }

  /** Gives its row, a new one even if it is there already. @throws RangeError for what isn't a digest in hex */
  add(hex: string): number {
    if (!seek(hex)) throw new RangeError("not a SHA-256 value in hex");
    const row = this.#size++;
    this.#rows.put(row, sought);
    this.#index.add(row, this.#hashOf);
    return row;
  }

  hex(row: number): string {
    return toHex(this.#rows.bytes(row)!);
  }

  readonly #isSought = (row: number): boolean => {
    for (let i = 0; i < WORDS; i++) if (this.#rows.get(row, i) !== sought[i]) return false;
    return true;
  };

  readonly #hashOf = (row: number): number => {
    this.#hash.begin();
    for (let i = 0; i < WORDS; i++) this.#hash.word(this.#rows.get(row, i));
    return this.#hash.end(WORDS);
  };

  #hashOfSought(): number {
    this.#hash.begin();
    for (let i = 0; i < WORDS; i++) this.#hash.word(sought[i]!);
    return this.#hash.end(WORDS);
  }
}
