import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  decodeJournal,
  encodeFileHeader,
  encodeRecord,
  FILE_HEADER_BYTES,
  ID_BYTES,
  type JournalRecord,
} from "./journal-codec.ts";

const bytes = (maxLength: number) => fc.uint8Array({ maxLength });
const id = fc.uint8Array({ minLength: ID_BYTES, maxLength: ID_BYTES });
const record = fc
  .record({
    from: fc.nat(2 ** 40),
    note: bytes(300),
    entries: fc.array(bytes(400), { maxLength: 8 }),
    blobs: fc.array(bytes(200), { maxLength: 3 }),
  })
  .map((some): JournalRecord => ({ ...some, to: some.from + some.entries.length }));
const records = fc.array(record, { minLength: 1, maxLength: 5 });

function encode(of: Uint8Array, some: readonly JournalRecord[], zeros = 0) {
  const parts = [encodeFileHeader(of), ...some.map((one) => encodeRecord(of, one))];
  const ends = parts.map((_, i) => parts.slice(0, i + 1).reduce((sum, { length }) => sum + length, 0));
  // ends[0] is the header's, ends[n] the n-th record's
  return { file: new Uint8Array(Buffer.concat([...parts, new Uint8Array(zeros)])), ends };
}
const plain = (some: Iterable<JournalRecord>): unknown[] =>
  [...some].map((one) => ({
    ...one,
    note: Buffer.from(one.note).toString("hex"),
    entries: one.entries.map((entry) => Buffer.from(entry).toString("hex")),
    blobs: one.blobs.map((blob) => Buffer.from(blob).toString("hex")),
  }));
const decode = (file: Uint8Array) => plain(decodeJournal(file, "journal/x/1"));

describe("a journal of the ledger's copy", () => {
  it("gives what was written, also before zeros that were never written over", () => {
    fc.assert(
      fc.property(id, records, fc.nat(200), (of, some, zeros) => {
        expect(decode(encode(of, some, zeros).file)).toEqual(plain(some));
      }),
    );
  });

  it("leaves out what was torn off its end, wherever", () => {
    fc.assert(
      fc.property(id, records, fc.nat(), fc.nat(100), (of, some, at, zeros) => {
        const { file, ends } = encode(of, some);
        const cut = at % (file.length + 1);
        const torn = new Uint8Array(cut + zeros);
        torn.set(file.subarray(0, cut));
        const whole = ends.slice(1).filter((end) => end <= cut).length;
        // Zeros may be just what was torn off.
        const got = decode(torn);
        expect(got.slice(0, whole)).toEqual(plain(some.slice(0, whole)));
        expect(plain(some).slice(0, got.length)).toEqual(got);
        if (zeros === 0) expect(got).toHaveLength(whole);
      }),
    );
  });

  it("says where it is damaged, unless it is the last record", () => {
    fc.assert(
      fc.property(id, records, fc.nat(), fc.integer({ min: 1, max: 255 }), (of, some, at, flip) => {
        const { file, ends } = encode(of, some);
        const hit = at % file.length;
        file[hit]! ^= flip;
        const last = ends.at(-2)!;
        if (hit >= last) {
          expect(decode(file)).toEqual(plain(some.slice(0, -1)));
        } else {
          const start = hit < FILE_HEADER_BYTES ? 0 : ends.findLast((end) => end <= hit)!;
          expect(() => decode(file)).toThrow(
            expect.objectContaining({
              code: "input-invalid",
              message: expect.stringContaining(
                `journal/x/1, a journal of the ledger's copy, is damaged at byte ${start},`,
              ),
            }),
          );
        }
      }),
      { numRuns: 400 },
    );
  });

  it("takes any bytes: records or a refusal", () => {
    const noise = fc.oneof(
      bytes(400),
      fc.tuple(id, bytes(300)).map(([of, rest]) => new Uint8Array(Buffer.concat([encodeFileHeader(of), of, rest]))),
    );
    fc.assert(
      fc.property(noise, (file) => {
        try {
          expect(decode(file)).toEqual([]);
        } catch (error) {
          expect(error).toMatchObject({ code: "input-invalid" });
        }
      }),
    );
    expect(decode(new Uint8Array(0))).toEqual([]);
    expect(decode(new Uint8Array(1 << 16))).toEqual([]);
  });

  it("isn't misled by an entry that looks like a record", () => {
    fc.assert(
      fc.property(id, id, record, (of, other, hostile) => {
        fc.pre(Buffer.compare(of, other) !== 0);
        const entries = [encodeRecord(other, hostile)];
        const { file } = encode(of, [{ ...hostile, to: hostile.from + 1, entries }]);
        expect(decode(file.subarray(0, file.length - 1))).toEqual([]);
      }),
    );
  });
});
