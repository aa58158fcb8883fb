/**
 * Finds rows by a hash of what is in them: open addressing, 8 to 16 bytes a row, no object. Who uses it compares the rows
 * themselves, so a hash that meets another's costs time and nothing else; and the seed is drawn anew for each index, so
 * that nobody can write a log whose acts all meet.
 */
export class RowIndex {
  readonly #seed = crypto.getRandomValues(new Uint32Array(2));
  /** row + 1; 0 is free */
  #slots = new Uint32Array(64);
  #size = 0;

  get seed(): Uint32Array {
    return this.#seed;
  }

  /** The row with this hash of which `same` holds, or -1. */
  find(hash: number, same: (row: number) => boolean): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let at = hash & mask; ; at = (at + 1) & mask) {
      const row = slots[at]! - 1;
      if (row < 0 || same(row)) return row;
    }
  }

  /** @param hashOf the hash of any row that was added, this one too */
  add(row: number, hashOf: (row: number) => number): void {
    if (2 * ++this.#size > this.#slots.length) {
      const old = this.#slots;
      this.#slots = new Uint32Array(2 * old.length);
      for (const taken of old) if (taken > 0) this.#place(taken - 1, hashOf(taken - 1));
    }
    this.#place(row, hashOf(row));
  }

  #place(row: number, hash: number): void {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let at = hash & mask;
    while (slots[at] !== 0) at = (at + 1) & mask;
    slots[at] = row + 1;
  }
}
