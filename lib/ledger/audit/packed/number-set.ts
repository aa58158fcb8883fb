const PAGE = 1024;

/** Whole numbers from 0, one bit each where they lie close together; one alone costs a page of 128 bytes. */
export class NumberSet {
  readonly #pages = new Map<number, Uint32Array>();
  #size = 0;
  #highest = 0;

  get size(): number {
    return this.#size;
  }

  /** 0 while it is empty */
  get highest(): number {
    return this.#highest;
  }

  has(value: number): boolean {
    const page = this.#pages.get(Math.floor(value / PAGE));
    return page !== undefined && (page[(value % PAGE) >>> 5]! & (1 << (value & 31))) !== 0;
  }

  add(value: number): void {
    if (this.has(value)) return;
    const at = Math.floor(value / PAGE);
    let page = this.#pages.get(at);
    if (page === undefined) this.#pages.set(at, (page = new Uint32Array(PAGE / 32)));
    page[(value % PAGE) >>> 5]! |= 1 << (value & 31);
    this.#size++;
    this.#highest = Math.max(this.#highest, value);
  }
}
