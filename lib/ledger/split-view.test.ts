import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { MemoryLog, opensslVerify } from "../../test/support/memory-log.ts";
import { fromBase64, fromUtf8, toBase64, utf8 } from "../domain/bytes.ts";
import type { SplitView } from "../records/split-view.ts";
import { auditLog } from "./audit-log.ts";
import { withSignatures } from "./cosignature.ts";
import { MAX_NOTE_SIGNATURES, parseNote } from "./note.ts";
import { LogReader } from "./reader.ts";
import { checkSplitView, continues } from "./split-view.ts";

const ORIGIN = "factory-y.example/log";
const entries = (count: number, what = "entry") => Array.from({ length: count }, (_, i) => utf8(`${what} ${i}`));
const options = (log: MemoryLog) => ({ fetch: log.fetch, log: log.key, verify: opensslVerify });
const verdict = (evidence: unknown, log?: MemoryLog) => checkSplitView(evidence, opensslVerify, log?.key);

describe("two checkpoints of one log", () => {
  let honest: MemoryLog;
  /** The same key: as long as the first was, and longer. */
  let fork: MemoryLog;
  let at300: Uint8Array;
  let forkAt300: Uint8Array;
  beforeAll(async () => {
    honest = new MemoryLog(ORIGIN);
    at300 = await honest.append(entries(300));
    await honest.append(entries(400, "later"));
    fork = new MemoryLog(ORIGIN, honest.signer);
    await fork.append(entries(100));
    forkAt300 = await fork.append(entries(200, "other"));
    await fork.append(entries(500, "longer"));
  });
  const hold = async (now: MemoryLog, then: Uint8Array, earlier?: MemoryLog, checkpoint?: Uint8Array) => {
    const reader = await LogReader.open({ ...options(now), ...(checkpoint === undefined ? {} : { checkpoint }) });
    return continues(reader, { note: then, ...(earlier === undefined ? {} : { fetch: earlier.fetch }) }, options(now));
  };
  const evidenceOf = async (...given: Parameters<typeof hold>): Promise<SplitView> => {
    const found = await hold(...given);
    if (found.ok || found.evidence === undefined) throw new Error(`no evidence: ${JSON.stringify(found)}`);
    expect(found.reason).toBe("fork");
    return found.evidence;
  };

  it("of one history prove nothing", async () => {
    expect(await hold(honest, at300)).toEqual({ ok: true });
    expect(await hold(honest, (await honest.fetch("checkpoint"))!)).toEqual({ ok: true });
    const empty = new MemoryLog(ORIGIN, honest.signer);
    expect(await hold(honest, await empty.append([]))).toEqual({ ok: true });
  });

  it("are evidence however many lines the log adds that nobody knows", async () => {
    const line = { name: "n".repeat(250), keyId: "00000000", signature: new Uint8Array(2700) };
    const padding = Array.from({ length: MAX_NOTE_SIGNATURES - 1 }, (_, i) => ({ ...line, name: `${i}${line.name}` }));
    const padded = withSignatures(at300, padding);
    expect(padded.length).toBeGreaterThan(230_000);
    expect(await verdict(await evidenceOf(fork, padded), honest)).toEqual({ origin: ORIGIN, sizes: [300, 800] });
  });

  it("of two histories are evidence, in either order and at one size, for who knows nothing but the key", async () => {
    const cases: [SplitView, [number, number]][] = [
      [await evidenceOf(fork, at300), [300, 800]],
      [await evidenceOf(fork, at300, undefined, forkAt300), [300, 300]],
      // Shorter now, and another beginning: what was kept of the longer one shows it.
      [await evidenceOf(fork, (await honest.fetch("checkpoint"))!, honest, forkAt300), [300, 700]],
    ];
    for (const [evidence, sizes] of cases) {
      const file = JSON.parse(JSON.stringify(evidence)) as unknown;
      expect(await verdict(file, honest)).toEqual({ origin: ORIGIN, sizes });
      expect(await verdict(file)).toEqual({ origin: ORIGIN, sizes });
      await expect(verdict(file, new MemoryLog(ORIGIN))).rejects.toThrow(/another log key/);
    }
  });

  it("of a log that is shorter now are a rollback, which they don't prove by themselves", async () => {
    const long = (await honest.fetch("checkpoint"))!;
    for (const earlier of [honest, undefined]) {
      const found = await hold(honest, long, earlier, at300);
      expect(found).toMatchObject({ ok: false, reason: "rollback" });
      expect(found).not.toHaveProperty("evidence");
    }
    // Without the longer one's tiles, or with damaged ones, a fork can't be told from it.
    expect(await hold(fork, long, undefined, forkAt300)).toMatchObject({ reason: "rollback" });
    const damaged = new MemoryLog(ORIGIN, honest.signer);
    expect(await hold(fork, long, damaged, forkAt300)).toMatchObject({ reason: "rollback" });
  });

  it("are told of by an audit", async () => {
    const audit = await auditLog({ ...options(fork), previous: at300 });
    expect(audit).toMatchObject({ ok: false, reason: "fork", code: "ledger-forked" });
    expect(audit.ok ? undefined : await verdict(audit.evidence, honest)).toBeDefined();
  });

  it("prove nothing when anything of them was made up", async () => {
    const good = await evidenceOf(fork, at300);
    const other = new MemoryLog(ORIGIN);
    await other.append(entries(900, "other log"));
    const root = (n: MemoryLog) => LogReader.open(options(n)).then((r) => r.rootAt(300).then(toBase64));
    const cases: [string, Partial<Record<keyof SplitView, unknown>>, RegExp][] = [
      ["one checkpoint twice", { smaller: good.larger, prefixRoot: await root(fork), proof: [] }, /proof doesn't lead/],
      ["the honest continuation", await honestPair(), /continues the smaller/],
      ["the two the other way round", { smaller: good.larger, larger: good.smaller }, /proof doesn't lead/],
      ["another prefix root", { prefixRoot: toBase64(new Uint8Array(32)) }, /proof doesn't lead/],
      ["a short root", { prefixRoot: "AAAA" }, /proof doesn't lead/],
      ["no proof", { proof: [] }, /proof doesn't lead/],
      ["another log's checkpoint", { larger: fromUtf8((await other.fetch("checkpoint"))!) }, /not signed|no known/],
      ["a note without a signature", { larger: `${parseNote(utf8(good.larger)).text}\n` }, /signature/],
      ["another key", { vkey: good.vkey.replace("+", "x+") }, /key ID/],
      ["more fields", { more: 1 } as never, /form/],
      ["another kind", { kind: "fork" }, /form/],
    ];
    for (const [what, change, why] of cases) {
      await expect(verdict({ ...good, ...change }), what).rejects.toMatchObject({ code: "proof-invalid" });
      await expect(verdict({ ...good, ...change }), what).rejects.toThrow(why);
    }
    for (const junk of [undefined, null, 1, "x", [], {}, { ...good, proof: [1] }]) {
      await expect(verdict(junk)).rejects.toMatchObject({ code: "proof-invalid" });
    }

    async function honestPair(): Promise<Partial<SplitView>> {
      const reader = await LogReader.open(options(honest));
      const proof = (await reader.consistencyProof(300)).map(toBase64);
      const larger = fromUtf8(reader.checkpoint.note);
      return { smaller: fromUtf8(at300), larger, prefixRoot: toBase64(await reader.rootAt(300)), proof };
    }
  });

  it("prove nothing with a byte changed", async () => {
    const good = await evidenceOf(fork, at300);
    const text = JSON.stringify(good);
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: text.length - 1 }), fc.integer({ min: 0x20, max: 0x7e }), async (at, unit) => {
        const changed = text.slice(0, at) + String.fromCharCode(unit) + text.slice(at + 1);
        if (changed === text) return;
        let parsed: unknown;
        try {
          parsed = JSON.parse(changed);
        } catch {
          return;
        }
        // A changed escape may still say the same.
        if (JSON.stringify(parsed) === text) return;
        await expect(verdict(parsed, honest)).rejects.toMatchObject({ code: "proof-invalid" });
      }),
      { numRuns: 300 },
    );
    expect(fromBase64(good.prefixRoot)).toHaveLength(32);
  });
});
