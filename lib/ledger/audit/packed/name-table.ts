import { words } from "./column.ts";
import { KeyedHash } from "./keyed-hash.ts";
import { RowIndex } from "./row-index.ts";

/** Bytes in one piece, and of the first one to begin with. A name lies in one piece. */
const PIECE = 1 << 20;
const FIRST = 1 << 10;
const PIECES = 1 << 12;
const LONGEST = 0xffff;

const encoder = new TextEncoder();
const decoder = new TextDecoder();
/** What is looked for: one buffer for all lookups, which never overlap. */
const sought = new Uint8Array(LONGEST);

/** Short strings in rows, in the order in which they were added, as UTF-8 behind its length; found by their value. */
export class NameTable {
  readonly #pieces: Uint8Array[] = [];
  /** where each begins: piece * 2^20 + offset */
  readonly #starts = words();
  readonly #index = new RowIndex();
  readonly #keyed = new KeyedHash(this.#index.seed);
  #used = 0;
  #size = 0;
  #length = 0;

  get size(): number {
    return this.#size;
  }

  /** The row of a name, or -1. */
  find(name: string): number {
    this.#seek(name);
    return this.#index.find(this.#hash(sought, 0, this.#length), this.#isSought);
  }

  has(name: string): boolean {
    return this.find(name) >= 0;
  }

  /** Gives its row, a new one even if it is there already. @throws RangeError when it is too long, or there are too many */
  add(name: string): number {
    this.#seek(name);
    const start = this.#room(2 + this.#length);
    const piece = this.#pieces[start >>> 20]!;
    const at = start & (PIECE - 1);
    piece[at] = this.#length >> 8;
    piece[at + 1] = this.#length & 0xff;
    piece.set(sought.subarray(0, this.#length), at + 2);
    const row = this.#size++;
    this.#starts.set(row, start);
    this.#index.add(row, this.#hashOf);
    return row;
  }

  name(row: number): string {
    const [piece, at, length] = this.#place(row);
    return decoder.decode(piece.subarray(at, at + length));
  }

  #seek(name: string): void {
    const { read, written } = encoder.encodeInto(name, sought);
    if (read < name.length) throw new RangeError(`a name of ${name.length} characters is too long`);
    this.#length = written;
  }

  #room(bytes: number): number {
    const last = this.#pieces.length - 1;
    if (last < 0 || this.#used + bytes > PIECE) {
      if (last + 1 >= PIECES) throw new RangeError("too many names");
      this.#pieces.push(new Uint8Array(last < 0 ? FIRST : PIECE));
      this.#used = 0;
      return this.#room(bytes);
    }
    const piece = this.#pieces[last]!;
    if (this.#used + bytes > piece.length) {
      // A small audit shall not pay for a large one's pieces.
      const grown = new Uint8Array(2 * piece.length);
      grown.set(piece);
      this.#pieces[last] = grown;
      return this.#room(bytes);
    }
    const start = last * PIECE + this.#used;
    this.#used += bytes;
    return start;
  }

  #place(row: number): [piece: Uint8Array, at: number, length: number] {
    const start = this.#starts.get(row);
    const piece = this.#pieces[start >>> 20]!;
    const at = start & (PIECE - 1);
    return [piece, at + 2, 256 * piece[at]! + piece[at + 1]!];
  }

  readonly #isSought = (row: number): boolean => {
    const [piece, at, length] = this.#place(row);
    if (length !== this.#length) return false;
    for (let i = 0; i < length; i++) if (piece[at + i] !== sought[i]) return false;
    return true;
  };

  readonly #hashOf = (row: number): number => this.#hash(...this.#place(row));

  #hash(bytes: Uint8Array, at: number, length: number): number {
    this.#keyed.begin();
    const end = at + length;
    for (let i = at; i < end; i += 4) {
      let word = 0;
      for (let j = Math.min(i + 4, end) - 1; j >= i; j--) word = (word << 8) | bytes[j]!;
      this.#keyed.word(word);
    }
    return this.#keyed.end(length);
  }
}
