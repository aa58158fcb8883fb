import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { sha256Hex } from "../../../domain/hash.ts";
import { utf8 } from "../../../domain/bytes.ts";
import { bytes, doubles, words } from "./column.ts";
import { DigestTable } from "./digest-table.ts";
import { KeyedHash } from "./keyed-hash.ts";
import { NameTable } from "./name-table.ts";
import { NumberSet } from "./number-set.ts";
import { RowIndex } from "./row-index.ts";

describe("what an audit remembers, packed", () => {
  it("keeps columns of any width, whatever the order in which rows are written", () => {
    const rows = fc.array(fc.tuple(fc.nat(200_000), fc.nat(0xffff_ffff)), { maxLength: 60 });
    fc.assert(
      fc.property(rows, fc.integer({ min: 1, max: 5 }), (written, width) => {
        const column = words(width);
        const model = new Map<string, number>();
        for (const [row, value] of written) {
          column.set(row, value, value % width);
          model.set(`${row}/${value % width}`, value);
        }
        for (const [row] of written) {
          for (let cell = 0; cell < width; cell++) {
            expect(column.get(row, cell)).toBe(model.get(`${row}/${cell}`) ?? 0);
          }
        }
        expect(column.get(300_000)).toBe(0);
      }),
      { numRuns: 30 },
    );
    const wide = bytes(3);
    wide.put(70_000, [1, 2, 3]);
    expect([...wide.bytes(70_000)!]).toEqual([1, 2, 3]);
    expect(wide.bytes(5)).toBeUndefined();
    const times = doubles();
    times.set(9, 1_785_000_000_123.5);
    expect(times.get(9)).toBe(1_785_000_000_123.5);
  });

  it("finds each digest it holds, and no other, among as many as a ledger has", () => {
    const table = new DigestTable();
    const digests = Array.from(
      { length: 70_000 },
      (_, i) => `${sha256Hex(utf8(String(i >>> 6))).slice(0, 56)}${hex8(i)}`,
    );
    for (const [row, digest] of digests.entries()) expect(table.add(digest)).toBe(row);
    for (let row = 0; row < digests.length; row += 97) {
      expect(table.find(digests[row]!)).toBe(row);
      expect(table.hex(row)).toBe(digests[row]);
      expect(table.has(`${digests[row]!.slice(0, 56)}${hex8(row + 100_000)}`)).toBe(false);
    }
    for (const not of ["", "00", "g".repeat(64), "A".repeat(64), "ä".repeat(64), "\u{20ac}".repeat(64)]) {
      expect(table.has(not)).toBe(false);
      expect(() => table.add(not)).toThrow(RangeError);
    }
  });

  it("finds digests as quickly when somebody has chosen them to begin, or to end, alike", () => {
    // Where all meet, as many take half a minute.
    for (const chosen of [(i: number) => "0".repeat(56) + hex8(i), (i: number) => hex8(i) + "f".repeat(56)]) {
      const table = new DigestTable();
      for (let i = 0; i < 40_000; i++) table.add(chosen(i));
      expect(table.find(chosen(39_999))).toBe(39_999);
    }
  });

  it("hashes every word, and how many there are", () => {
    const seeds = fc.uint32Array({ minLength: 2, maxLength: 2 });
    const hash = (key: Uint32Array, words: readonly number[]): number => {
      const keyed = new KeyedHash(key);
      keyed.begin();
      for (const word of words) keyed.word(word);
      return keyed.end(words.length);
    };
    const some = [1, 2, 3, 4, 5, 6, 7, 8];
    fc.assert(
      fc.property(seeds, fc.nat(7), fc.nat(31), (key, at, bit) => {
        const other = some.map((word, i) => (i === at ? word ^ (1 << bit) : word));
        // A difference in the highest bit, and the one that undid it where words were only multiplied.
        const pair = some.map((word, i) =>
          i === at % 7 ? word ^ 0x80000000 : i === (at % 7) + 1 ? word ^ 0x80010000 : word,
        );
        const met = [other, pair, [...some, 0]].map((words) => hash(key, words) === hash(key, some));
        expect(met).toEqual([false, false, false]);
      }),
    );
  });

  it("finds names as a Map does, also long ones, empty ones and those of other scripts", () => {
    const name = fc.oneof(
      fc.string({ unit: "binary", maxLength: 40 }),
      fc.string({ minLength: 2000, maxLength: 3000 }),
    );
    fc.assert(
      fc.property(fc.array(name, { maxLength: 200 }), fc.array(name, { maxLength: 20 }), (names, others) => {
        const table = new NameTable();
        const model = new Map<string, number>();
        for (const one of names) {
          expect(table.find(one)).toBe(model.get(one) ?? -1);
          if (model.has(one)) continue;
          expect(table.add(one)).toBe(model.size);
          model.set(one, model.size);
        }
        for (const [one, row] of model) {
          expect(table.find(one)).toBe(row);
          expect(table.name(row)).toBe(one);
        }
        for (const one of others) expect(table.has(one)).toBe(model.has(one));
        expect(table.size).toBe(model.size);
      }),
      { numRuns: 60 },
    );
    expect(() => new NameTable().add("x".repeat(70_000))).toThrow(RangeError);
  });

  it("keeps more names than one piece holds", () => {
    const table = new NameTable();
    for (let i = 0; i < 40_000; i++) table.add(`device ${i} ${"-".repeat(60)}`);
    for (let i = 0; i < 40_000; i += 371) {
      expect(table.find(`device ${i} ${"-".repeat(60)}`)).toBe(i);
      expect(table.name(i)).toBe(`device ${i} ${"-".repeat(60)}`);
    }
    expect(table.has(`device 1 ${"-".repeat(61)}`)).toBe(false);
  });

  it("holds sets of slots, dense or far apart", () => {
    const slots = fc.array(fc.oneof(fc.integer({ min: 1, max: 3000 }), fc.integer({ min: 1, max: 100_000_000 })));
    fc.assert(
      fc.property(slots, slots, (members, others) => {
        const set = new NumberSet();
        for (const one of members) set.add(one);
        const model = new Set(members);
        expect(set.size).toBe(model.size);
        expect(set.highest).toBe(Math.max(0, ...members));
        for (const one of [...members, ...others]) expect(set.has(one)).toBe(model.has(one));
      }),
    );
  });

  it("tells rows apart whose hashes are the same", () => {
    const index = new RowIndex();
    for (let row = 0; row < 300; row++) index.add(row, () => 7);
    for (let row = 0; row < 300; row++) expect(index.find(7, (found) => found === row)).toBe(row);
    expect(index.find(7, () => false)).toBe(-1);
    expect(new RowIndex().seed).not.toEqual(index.seed);
  });
});

const hex8 = (value: number): string => value.toString(16).padStart(8, "0");
