/**
 * HalfSipHash-1-3 (Aumasson and Bernstein): a hash of 32-bit words under a key of two, so that nobody without the key can
 * make values meet. What acts name (IDs, digests of batches and requests) is for their party to choose, and so is a whole
 * family of values that have almost everything in common.
 */
export class KeyedHash {
  readonly #key: Uint32Array;
  #v0 = 0;
  #v1 = 0;
  #v2 = 0;
  #v3 = 0;

  /** @param key two words */
  constructor(key: Uint32Array) {
    this.#key = key;
  }

  /** Forgets the words before. */
  begin(): void {
    const [k0, k1] = this.#key;
    this.#v0 = k0!;
    this.#v1 = k1!;
    this.#v2 = 0x6c796765 ^ k0!;
    this.#v3 = 0x74656462 ^ k1!;
  }

  word(word: number): void {
    this.#v3 ^= word;
    this.#round();
    this.#v0 ^= word;
  }

  /** @param last a final word that says how much there was */
  end(last: number): number {
    this.word(last);
    this.#v2 ^= 0xff;
    for (let i = 0; i < 3; i++) this.#round();
    return (this.#v1 ^ this.#v3) >>> 0;
  }

  #round(): void {
    let v0 = this.#v0;
    let v1 = this.#v1;
    let v2 = this.#v2;
    let v3 = this.#v3;
    v0 = (v0 + v1) | 0;
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
    v0 = (v0 << 16) | (v0 >>> 16);
    v2 = (v2 + v3) | 0;
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
    v0 = (v0 + v3) | 0;
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
    v2 = (v2 + v1) | 0;
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
    v2 = (v2 << 16) | (v2 >>> 16);
    this.#v0 = v0;
    this.#v1 = v1;
    this.#v2 = v2;
    this.#v3 = v3;
  }
}
