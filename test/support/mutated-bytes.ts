import fc from "fast-check";

type Mutation = (bytes: Buffer) => Buffer;

const splice = (bytes: Buffer, at: number, remove: number, insert: Uint8Array): Buffer => {
  const from = bytes.length === 0 ? 0 : at % bytes.length;
  return Buffer.concat([bytes.subarray(0, from), insert, bytes.subarray(from + remove)]);
};

const LENGTHS = ["00", "01", "7f", "8001", "ff7f", "ffff7f", "ffffff7f", "ffffffff7f", "0000", "ffff"];

/** One change: a bit, a cut, some octets more or fewer, a length or count that lies, the packet's type. */
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })).map(
    ([at, mask]): Mutation =>
      (bytes) =>
        splice(bytes, at, 1, Uint8Array.of((bytes[at % Math.max(1, bytes.length)] ?? 0) ^ mask)),
  ),
  fc.nat().map(
    (at): Mutation =>
      (bytes) =>
        bytes.subarray(0, at % (bytes.length + 1)),
  ),
  fc.tuple(fc.nat(), fc.nat(20), fc.uint8Array({ maxLength: 40 })).map(
    ([at, remove, insert]): Mutation =>
      (bytes) =>
        splice(bytes, at, remove, insert),
  ),
  fc.tuple(fc.nat(), fc.constantFrom(...LENGTHS)).map(
    ([at, length]): Mutation =>
      (bytes) =>
        splice(bytes, at, length.length / 2, Buffer.from(length, "hex")),
  ),
  fc.constantFrom(...LENGTHS).map(
    (length): Mutation =>
      (bytes) =>
        splice(bytes, 1, 1, Buffer.from(length, "hex")),
  ),
  fc.nat(15).map(
    (type): Mutation =>
      (bytes) =>
        splice(bytes, 0, 1, Uint8Array.of((type << 4) | ((bytes[0] ?? 0) & 0x0f))),
  ),
  fc.nat(15).map(
    (flags): Mutation =>
      (bytes) =>
        splice(bytes, 0, 1, Uint8Array.of(((bytes[0] ?? 0) & 0xf0) | flags)),
  ),
);

/** Copies of these with one to four changes, and now and then something that was never a packet. */
export function mutatedBytes(samples: readonly Buffer[]): fc.Arbitrary<Buffer> {
  const changed = fc
    .tuple(fc.constantFrom(...samples), fc.array(mutation, { minLength: 1, maxLength: 4 }))
    .map(([sample, changes]) => changes.reduce((bytes, change) => change(bytes), sample));
  const random = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));
  return fc.oneof({ weight: 9, arbitrary: changed }, { weight: 1, arbitrary: random });
}
