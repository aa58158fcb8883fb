import { splitPrefixed } from "../lib/domain/bytes.ts";

/**
 * Byte strings, one after the other, in memory that two threads share: one message between them then stands for many
 * pieces of work, and nothing is allocated for it. Only one of the two has it at a time.
 */

const LENGTH_BYTES = 4;

export class SharedBytes {
  readonly memory: SharedArrayBuffer;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #used = 0;

  constructor(capacity: number) {
    this.memory = new SharedArrayBuffer(capacity);
    this.#bytes = new Uint8Array(this.memory);
    this.#view = new DataView(this.memory);
  }

  /** How much of the memory holds something. */
  get used(): number {
    return this.#used;
  }

  clear(): void {
    this.#used = 0;
  }

  /** @throws RangeError when it doesn't fit */
  add(part: Uint8Array): void {
    this.#view.setUint32(this.#used, part.length);
    this.#bytes.set(part, this.#used + LENGTH_BYTES);
    this.#used += LENGTH_BYTES + part.length;
  }
}

/** The byte strings, in memory of the reader's own. */
export function readShared(memory: SharedArrayBuffer, used: number): Uint8Array[] {
  const bytes = new Uint8Array(used);
  bytes.set(new Uint8Array(memory, 0, used));
  return splitPrefixed(bytes);
}
