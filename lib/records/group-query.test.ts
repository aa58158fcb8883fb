import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isCountersignError } from "../domain/errors.ts";
import { fieldsOfQuery, matchesGroup, parseGroupQuery, type DeviceFacts } from "./group-query.ts";

const device: DeviceFacts = {
  device: "dev-1-0007",
  issuer: "technician-z",
  under: ["company-x", "factory-y", "technician-z"],
  lot: "L",
  installer: "technician-z",
  installed: Date.parse("2026-08-03T10:00:00Z"),
  expires: Date.parse("2027-08-03T10:00:00Z"),
};
const holds = (query: string, facts = device): boolean => matchesGroup(parseGroupQuery(query), facts);

describe("a group's query", () => {
  it.each([
    ["issuer = technician-z and installed > 2026-07-01", true],
    ["installer = Technician-Z and installed > 2026-07", true],
    ["installed > 2026-08", false],
    ["installed >= 2026-08 and installed <= 2026-08", true],
    ["installed = 2026", true],
    ["installed != 2026-08-03", false],
    ["installed < 2026-08-03T10:00:00Z", false],
    ["installed <= 2026-08-03T10:00:00Z", true],
    ["installed > 2026-08-03T09:59:59Z", true],
    ["lot = L", true],
    ["lot in (K, L)", true],
    ["lot in (K)", false],
    ["under factory-y", true],
    ["under (a, company-x)", true],
    ["not under factory-y", false],
    ["device = dev-1-*", true],
    ['device = "dev-1-0007"', true],
    ["lot = K or lot = L and device != dev-1-0007", false],
    ["(lot = K or lot = L) and NOT device = other", true],
    // What isn't known is never the case, and so isn't its opposite.
    ["built > 2020", false],
    ["builder != factory-y", false],
    ["not built > 2020", true],
  ])("%s: %s", (query, expected) => expect(holds(query)).toBe(expected));

  it.each([
    "",
    "lot",
    "lot =",
    "lot > L",
    "colour = red",
    "lot = L and",
    "lot = L lot = K",
    "(lot = L",
    "lot in ()",
    "lot in (L,)",
    "installed > July",
    "installed > 2026-13",
    "installed > 2026-06-31",
    "installed in (2026)",
    "lot = 'L'",
    "lot = L; drop",
    `${"(".repeat(40)}lot = L${")".repeat(40)}`,
    `${"not ".repeat(40)}lot = L`,
    Array.from({ length: 65 }, () => "lot = L").join(" or "),
    "x".repeat(1001),
    "__proto__ = x",
  ])("refuses %j", (query) =>
    expect(() => parseGroupQuery(query)).toThrow(expect.objectContaining({ code: "input-invalid" })),
  );

  it("says what it asks for", () => {
    expect([...fieldsOfQuery(parseGroupQuery("lot = L and (under x or not installed > 2026)"))]).toEqual([
      "lot",
      "under",
      "installed",
    ]);
  });

  it("parses whatever is typed, or refuses it", () => {
    const word = fc.constantFrom(
      "lot",
      "=",
      "!=",
      "(",
      ")",
      "and",
      "or",
      "not",
      "under",
      "in",
      ",",
      "L",
      "installed",
      ">",
      "2026-07",
      '"',
      "*",
      " ",
    );
    const typed = fc.oneof(
      fc.string({ maxLength: 60, unit: "binary" }),
      fc.array(word, { maxLength: 40 }).map((parts) => parts.join(" ")),
    );
    fc.assert(
      fc.property(typed, (text) => {
        try {
          matchesGroup(parseGroupQuery(text), device);
        } catch (error) {
          if (!isCountersignError(error) || error.code !== "input-invalid") throw error;
        }
      }),
      { numRuns: 5000 },
    );
  });

  it("is as long to read as it is long", () => {
    const started = performance.now();
    for (const text of [`lot = ${"a".repeat(990)}`, " ".repeat(1000), `"${"x".repeat(998)}`, "-".repeat(1000)]) {
      try {
        parseGroupQuery(text);
      } catch {
        // Refused, as fast.
      }
    }
    expect(performance.now() - started).toBeLessThan(2_000);
  });
});
