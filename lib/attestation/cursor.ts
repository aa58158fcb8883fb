import { CountersignError } from "../domain/errors.ts";

/**
 * A forward cursor over a structure as a TPM marshals it (TPM 2.0 Library Part 2): big-endian integers, and buffers behind
 * a length of two octets (TPM2B). Never reads outside its window; every refusal is `attestation-malformed` with
 * `details.offset`.
 */
export class TpmReader {
  readonly #bytes: Uint8Array;
  readonly #what: string;
  #at = 0;

  /** @param what for messages: which structure this is */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#what = what;
  }

  fail(message: string): CountersignError {
    return new CountersignError("attestation-malformed", `${this.#what}: ${message} (offset ${this.#at})`, {
      details: { offset: this.#at },
    });
  }

  /** A view, not a copy. */
  take(length: number): Uint8Array {
    const end = this.#at + length;
    if (end > this.#bytes.length) throw this.fail(`it ends within a field of ${length} octets`);
    const taken = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return taken;
  }

  u8(): number {
    return this.take(1)[0]!;
  }

  u16(): number {
    const [high, low] = this.take(2);
    return (high! << 8) | low!;
  }

  u32(): number {
    return this.u16() * 0x10000 + this.u16();
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  /** TPM2B: at most `max` octets behind their length. */
  buffer(max: number): Uint8Array {
    const length = this.u16();
    if (length > max) throw this.fail(`a field of ${length} octets is above its limit of ${max}`);
    return this.take(length);
  }

  /** Everything that is left. */
  rest(): Uint8Array {
    return this.take(this.#bytes.length - this.#at);
  }

  /** @throws when anything is left: trailing octets are never ignored */
  end(): void {
    if (this.#at !== this.#bytes.length) throw this.fail("octets are left after its last field");
  }
}

/** TPM2B around these octets. */
export function tpm2b(content: Uint8Array): Uint8Array {
  const out = new Uint8Array(2 + content.length);
  out[0] = content.length >> 8;
  out[1] = content.length & 0xff;
  out.set(content, 2);
  return out;
}

export const u16 = (value: number): Uint8Array => Uint8Array.of(value >> 8, value & 0xff);
export const u32 = (value: number): Uint8Array =>
  Uint8Array.of(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff);
