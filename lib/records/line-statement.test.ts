import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fromUtf8, toBase64, utf8 } from "../domain/bytes.ts";
import { buildLine, lineAct, lineText, readEntry } from "./line-statement.ts";
import { scanLine, type LineScan } from "./line-scan.ts";
import { buildStatement, parseEntry, type AnyAct } from "./statement.ts";

const hash = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes).toString("hex"));
const path = fc.array(hash, { maxLength: 9 });
const index = fc.nat(100_000_000);
const lot = fc.constantFrom("lot-1", "L.9_x", "lot-bench");
const log = fc.constantFrom("countersign.example/factory-y", "y.example/log");
const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map(toBase64);
const intake = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constant("manifest" as const), digest: hash, index, path }) },
  fc.record({ kind: fc.constant("est" as const), csrSha256: hash, clientCertificateSha256: hash }),
);
const names = fc.oneof(
  { weight: 6, arbitrary: fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/) },
  fc.constantFrom("dev:é", 'a"b'),
);
const slot = fc.integer({ min: 1, max: 100_000_000 });
const ref = fc.record({ origin: log, leafHash: hash });
const prev = fc.record(
  { origin: log, leafHash: hash, listIndex: index, path },
  { requiredKeys: ["origin", "leafHash"] },
);

const fields = {
  built: fc.record({ lot, slot, spki: bytes(200), csrSha256: hash, intake }),
  certified: fc.record(
    {
      lot,
      slot,
      profile: fc.record({ name: fc.constantFrom("ldevid", "idevid"), sha256: hash }),
      certificate: bytes(900),
      purpose: fc.constantFrom("initial" as const, "renewal" as const),
      renews: ref,
      intake,
      intent: fc.record({ leafHash: hash, index, path }),
    },
    { requiredKeys: ["lot", "slot", "profile", "certificate", "purpose", "intake", "intent"] },
  ),
  installed: fc.record({ lot, slot, technician: hash, intake, place: hash, time: hash }),
  intent: fc.record({ lot, manifest: hash, tbsRoot: hash, count: slot }),
};

const act = fc.constantFrom(...(Object.keys(fields) as (keyof typeof fields)[])).chain((type) =>
  fc.record(
    {
      type: fc.constant(type),
      subject: fc.array(fc.record({ name: names, digest: fc.record({ sha256: hash }) }), {
        minLength: 1,
        maxLength: 2,
        size: "-1",
      }),
      origin: log,
      party: fc.constantFrom("factory-y", "technician-z"),
      retryKey: hash,
      time: fc.date({ noInvalidDate: true, min: new Date(0), max: new Date("9999-01-01") }).map((d) => d.toISOString()),
      grant: ref,
      prev: fc.array(prev, { maxLength: 3 }),
      blobs: fc.oneof(
        { weight: 4, arbitrary: fc.constant([]) },
        fc.array(fc.record({ name: fc.constant("manifest"), sha256: hash, size: index }), { maxLength: 1 }),
      ),
      fields: fields[type] as fc.Arbitrary<unknown>,
    },
    { requiredKeys: ["type", "subject", "origin", "party", "retryKey", "time", "prev", "blobs", "fields"] },
  ),
) as unknown as fc.Arbitrary<AnyAct>;

/** Paths to every value and object below. */
function places(value: unknown, at: readonly (string | number)[] = []): (readonly (string | number)[])[] {
  if (typeof value !== "object" || value === null) return [at];
  return [at, ...Object.entries(value).flatMap(([key, inner]) => places(inner, [...at, key]))];
}

function changed(original: AnyAct, at: readonly (string | number)[], change: (value: unknown) => unknown): AnyAct {
  const copy = structuredClone(original) as unknown as Record<string, unknown>;
  let holder: Record<string, unknown> = copy;
  for (const key of at.slice(0, -1)) holder = holder[key] as Record<string, unknown>;
  const last = at.at(-1);
  if (last !== undefined) holder[last] = change(holder[last]);
  return copy as unknown as AnyAct;
}

const WRONG: ((value: unknown) => unknown)[] = [
  () => undefined,
  () => null,
  () => "",
  () => 'x"}',
  () => "\ud800",
  () => -1,
  () => 0.5,
  () => -0,
  () => 2 ** 53,
  () => [],
  () => ({}),
  (value) => (typeof value === "string" ? value.toUpperCase() : value),
  (value) => (typeof value === "string" ? `${value}\n` : value),
  (value) => (typeof value === "string" ? value.slice(1) : value),
  (value) => (Array.isArray(value) ? [...value, ...value, "x"] : value),
  (value) => (typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value, more: 1 } : value),
];

function byStatement(value: AnyAct): string | undefined {
  try {
    return fromUtf8(buildStatement(value));
  } catch {
    return undefined;
  }
}

describe("line statements", () => {
  it("are the bytes of buildStatement", () => {
    let written = 0;
    fc.assert(
      fc.property(act, (value) => {
        const expected = buildStatement(value);
        const text = lineText(value);
        if (text !== undefined) written++;
        if (text !== undefined) expect(text).toBe(fromUtf8(expected));
        expect(buildLine(value)).toEqual(expected);
      }),
      { numRuns: 2000 },
    );
    expect(written).toBeGreaterThan(300);
  });

  it("never write what buildStatement refuses, or writes in another way", () => {
    let refused = 0;
    fc.assert(
      fc.property(act, fc.nat(), fc.constantFrom(...WRONG), (value, which, change) => {
        const all = places(value);
        const spoiled = changed(value, all[which % all.length]!, change);
        const expected = byStatement(spoiled);
        if (expected === undefined) refused++;
        const text = lineText(spoiled);
        if (text !== undefined) expect(text).toBe(expected);
      }),
      { numRuns: 4000 },
    );
    expect(refused).toBeGreaterThan(1000);
  });

  it("are read as parseEntry reads them", () => {
    let fast = 0;
    fc.assert(
      fc.property(act, (value) => {
        const entry = buildStatement(value);
        if (lineAct(entry) !== undefined) fast++;
        expect(outcome(readEntry, entry)).toEqual(outcome(parseEntry, entry));
      }),
      { numRuns: 1000 },
    );
    expect(fast).toBeGreaterThan(150);
  });

  it("are refused as parseEntry refuses them, whatever became of their bytes", () => {
    let refused = 0;
    fc.assert(
      fc.property(act, fc.nat(), fc.constantFrom(...SPOILT), (value, where, spoil) => {
        const entry = utf8(spoil(fromUtf8(buildStatement(value)), where));
        const expected = outcome(parseEntry, entry);
        if (typeof expected === "string") refused++;
        expect(outcome(readEntry, entry)).toEqual(expected);
      }),
      { numRuns: 2000 },
    );
    expect(refused).toBeGreaterThan(1000);
  });
});

/** What `scanLine` gives of an entry, by way of `readEntry`. */
function scanned(entry: Uint8Array): LineScan {
  const { act: read } = readEntry(entry);
  if (read.type !== "certified" && read.type !== "built" && read.type !== "installed") throw new Error(read.type);
  const { type, origin, party } = read;
  const { lot, slot } = read.fields;
  const line = { type, origin, party, lot, slot };
  if (read.type !== "certified") return line;
  return { ...line, purpose: read.fields.purpose, certificate: read.fields.certificate };
}

describe("a scan of line records", () => {
  it("says what readEntry says", () => {
    const found: Record<string, number> = {};
    fc.assert(
      fc.property(act, (value) => {
        const entry = buildStatement(value);
        const line = scanLine(entry);
        // It knows whatever the fast reading knows.
        expect(line === undefined).toBe(lineAct(entry) === undefined);
        if (line === undefined) return;
        found[line.type] = (found[line.type] ?? 0) + 1;
        expect(line).toEqual(scanned(entry));
      }),
      { numRuns: 2000 },
    );
    expect(Math.min(found["built"]!, found["certified"]!, found["installed"]!)).toBeGreaterThan(5);
  });

  it("lets nothing pass that isn't a valid record, whatever became of its bytes", () => {
    let passed = 0;
    fc.assert(
      fc.property(act, fc.nat(), fc.constantFrom(...SPOILT), (value, where, spoil) => {
        const entry = utf8(spoil(fromUtf8(buildStatement(value)), where));
        const line = scanLine(entry);
        if (line === undefined) return;
        passed++;
        expect(line).toEqual(scanned(entry));
      }),
      { numRuns: 4000 },
    );
    expect(passed).toBeGreaterThan(15);
  });

  it("passes what is changed within a value only as readEntry does", () => {
    fc.assert(
      fc.property(act, fc.nat(), fc.nat(255), (value, where, byte) => {
        const entry = buildStatement(value).slice();
        entry[where % entry.length] = byte;
        const line = scanLine(entry);
        if (line !== undefined) expect(line).toEqual(scanned(entry));
        expect(line === undefined).toBe(lineAct(entry) === undefined);
      }),
      { numRuns: 4000 },
    );
  });

  it("stops at an entry's end, wherever that is", () => {
    const [value] = fc.sample(
      act.filter((one) => lineText(one) !== undefined),
      { numRuns: 1, seed: 7 },
    );
    const entry = buildStatement(value!);
    expect(scanLine(entry)).toBeDefined();
    for (let end = 0; end < entry.length; end++) expect(scanLine(entry.subarray(0, end))).toBeUndefined();
  });
});

function outcome(read: (entry: Uint8Array) => unknown, entry: Uint8Array): unknown {
  try {
    return read(entry);
  } catch (error) {
    return (error as { code: string }).code;
  }
}

const put = (text: string, where: number, more: string, skip = 0): string => {
  const at = where % text.length;
  return text.slice(0, at) + more + text.slice(at + skip);
};
const SPOILT: ((text: string, where: number) => string)[] = [
  (text, where) => put(text, where, "", 1),
  (text, where) => put(text, where, " "),
  (text, where) => put(text, where, "A", 1),
  (text, where) => put(text, where, "0", 1),
  (text, where) => put(text, where, "\n", 1),
  (text, where) => put(text, where, "\\u0041", 1),
  (text) => text.replace('"slot":', '"slot":1,"slot":'),
  (text) => text.replace('"slot":', '"__proto__":1,"slot":'),
  (text) => text.replace('"origin":', '"type":"built","origin":'),
  (text) => text.replace(/"slot":(\d+)/, '"slot":[$1]'),
  (text) => text.replace(/"slot":(\d+)/, '"slot":$1.0'),
  (text) => text.replace(/"retryKey":("[0-9a-f]*")/, '"retryKey":[$1]'),
  (text) => text.replace(/"party":"[^"]*"/, '"party":null'),
  (text) => text.replace(/("origin":"[^"]*"),("party":"[^"]*")/, "$2,$1"),
  (text) => text.replace(/:v1","subject"/, ':v2","subject"'),
  (text) => `[${text}]`,
  (text) => `\ufeff${text}`,
  (text) => text,
];
