import fc from "fast-check";
import { afterAll, beforeAll, expect, it } from "vitest";
import { siteDatabase } from "../test/support/parties.ts";
import type { Db } from "./db.ts";
import { hexHashes, ints, packed, texts } from "./packed.ts";

let db: Db;

beforeAll(async () => {
  db = await siteDatabase();
});
afterAll(async () => {
  await db.end();
});

it("sends texts as they are, whatever is in them", async () => {
  const text = fc.oneof(
    fc.stringMatching(/^[A-Za-z0-9._:-]{1,64}$/),
    fc.string({ unit: fc.constantFrom('"', "\\", ",", "{", "}", "NULL", " ", "\n", "a") }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(fc.option(text, { freq: 8 }), { maxLength: 8 }), async (values) => {
      const { rows } = await db.query("SELECT $1::text[] AS back", [texts(values)]);
      expect((rows[0] as { back: unknown }).back).toEqual(values);
    }),
    { numRuns: 300 },
  );
});

it("cuts apart what was packed", async () => {
  const values = [Uint8Array.of(1, 2), new Uint8Array(0), new Uint8Array(300).fill(7)];
  const { bytes, ends, sizes } = packed(values);
  const { rows } = await db.query<{ part: Uint8Array }>(
    `SELECT substring($1::bytea FROM e - s + 1 FOR s) AS part
     FROM unnest($2::int[], $3::int[]) WITH ORDINALITY AS n(e, s, o) ORDER BY o`,
    [bytes, ends, sizes],
  );
  expect(rows.map(({ part }) => new Uint8Array(part))).toEqual(values);
  expect(ints([])).toBe("{}");
  expect(hexHashes(null)).toEqual([]);
  expect(hexHashes("ab".repeat(64))).toEqual(["ab".repeat(32), "ab".repeat(32)]);
});
