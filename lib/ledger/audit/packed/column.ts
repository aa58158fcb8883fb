/** Typed arrays that a column can be made of. */
type Cells = Uint8Array | Uint16Array | Uint32Array | Float64Array;

/** Rows in one piece. */
const PIECE = 1 << 16;
const FIRST = 64;

/**
 * Numbers in rows, `width` a row, that grow piece by piece: nothing is copied once a piece is whole, and a piece that
 * nothing was written to takes no memory. What was never written is 0.
 */
export class Column<T extends Cells> {
  readonly #make: (cells: number) => T;
  readonly #width: number;
  readonly #pieces: (T | undefined)[] = [];

  constructor(make: (cells: number) => T, width = 1) {
    this.#make = make;
    this.#width = width;
  }

  get(row: number, cell = 0): number {
    return this.#pieces[row >>> 16]?.[(row & (PIECE - 1)) * this.#width + cell] ?? 0;
  }

  set(row: number, value: number, cell = 0): void {
    this.#room(row)[(row & (PIECE - 1)) * this.#width + cell] = value;
  }

  /** Copies a whole row in. */
  put(row: number, cells: ArrayLike<number>): void {
    this.#room(row).set(cells, (row & (PIECE - 1)) * this.#width);
  }

  /** A row as bytes, in the machine's order; undefined where nothing was written near it. */
  bytes(row: number): Uint8Array | undefined {
    const piece = this.#pieces[row >>> 16];
    const at = (row & (PIECE - 1)) * this.#width;
    if (piece === undefined || at >= piece.length) return undefined;
    const { BYTES_PER_ELEMENT: each, byteOffset } = piece;
    return new Uint8Array(piece.buffer, byteOffset + at * each, this.#width * each);
  }

  #room(row: number): T {
    const at = row >>> 16;
    const rows = (row & (PIECE - 1)) + 1;
    const piece = this.#pieces[at];
    if (piece !== undefined && piece.length >= rows * this.#width) return piece;
    // A small audit shall not pay for a large one's pieces.
    let room = at === 0 ? FIRST : PIECE;
    while (room < rows) room *= 2;
    const grown = this.#make(room * this.#width);
    if (piece !== undefined) grown.set(piece);
    while (this.#pieces.length < at) this.#pieces.push(undefined);
    this.#pieces[at] = grown;
    return grown;
  }
}

export const bytes = (width = 1): Column<Uint8Array> => new Column((cells) => new Uint8Array(cells), width);
export const shorts = (width = 1): Column<Uint16Array> => new Column((cells) => new Uint16Array(cells), width);
export const words = (width = 1): Column<Uint32Array> => new Column((cells) => new Uint32Array(cells), width);
export const doubles = (width = 1): Column<Float64Array> => new Column((cells) => new Float64Array(cells), width);
