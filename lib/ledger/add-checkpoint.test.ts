import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { MemoryLog } from "../../test/support/memory-log.ts";
import { utf8 } from "../domain/bytes.ts";
import {
  formatAddCheckpoint,
  MAX_ADD_CHECKPOINT_BYTES,
  MAX_PROOF_LINES,
  parseAddCheckpoint,
} from "./add-checkpoint.ts";

describe("the body of add-checkpoint", () => {
  let checkpoint: Uint8Array;
  beforeAll(async () => {
    checkpoint = await new MemoryLog("factory-y.example/log").append([utf8("entry")]);
  });

  it("reads the specification's own example", () => {
    // c2sp.org/tlog-witness v1.0.0
    const body =
      "old 20852014\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\njrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n" +
      "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\n" +
      "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" +
      "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";
    const parsed = parseAddCheckpoint(utf8(body));
    expect(parsed).toMatchObject({ oldSize: 20_852_014 });
    expect(parsed.proof).toHaveLength(4);
    expect(new TextDecoder().decode(formatAddCheckpoint(parsed))).toBe(body);
  });

  it("is read as it was written", () => {
    const hash = fc.uint8Array({ minLength: 32, maxLength: 32 });
    const request = fc.record({
      oldSize: fc.nat({ max: Number.MAX_SAFE_INTEGER }),
      proof: fc.array(hash, { maxLength: MAX_PROOF_LINES }),
    });
    fc.assert(
      fc.property(request, ({ oldSize, proof }) => {
        const parsed = parseAddCheckpoint(formatAddCheckpoint({ oldSize, proof, checkpoint }));
        expect({ ...parsed, proof: parsed.proof.map(String) }).toEqual({
          oldSize,
          proof: proof.map(String),
          checkpoint,
        });
      }),
    );
  });

  it("is read, or refused as invalid input, whatever the bytes", () => {
    const good = formatAddCheckpoint({ oldSize: 3, proof: [new Uint8Array(32), new Uint8Array(32)], checkpoint });
    const parse = (bytes: Uint8Array): void => {
      try {
        const parsed = parseAddCheckpoint(bytes);
        // What is taken has one way to be written.
        expect(formatAddCheckpoint(parsed)).toEqual(bytes);
      } catch (error) {
        expect(error).toMatchObject({ code: "input-invalid" });
      }
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), parse), { numRuns: 2000 });
    const changed = fc.tuple(fc.nat({ max: good.length - 1 }), fc.nat({ max: 255 }));
    fc.assert(
      fc.property(changed, ([at, byte]) => parse(Uint8Array.from(good, (b, i) => (i === at ? byte : b)))),
      { numRuns: 4000 },
    );
    for (let length = 0; length < good.length; length++) parse(good.subarray(0, length));
    expect(() => parseAddCheckpoint(new Uint8Array(MAX_ADD_CHECKPOINT_BYTES + 1))).toThrow(/at most/);
  });
});
