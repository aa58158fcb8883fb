import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Gather } from "./gather.ts";

describe("gathering asks", () => {
  it("answers each ask with its own answer, whatever comes when, within its limits", async () => {
    const asks = fc.array(fc.record({ bytes: fc.nat(50), wait: fc.boolean() }), { minLength: 1, maxLength: 60 });
    await fc.assert(
      fc.asyncProperty(
        asks,
        fc.integer({ min: 1, max: 10 }),
        fc.integer({ min: 1, max: 100 }),
        async (list, most, mostBytes) => {
          let running = 0;
          const gather = new Gather<{ n: number; bytes: number }, number>(
            async (batch) => {
              expect(++running).toBe(1);
              expect(batch.length).toBeLessThanOrEqual(most);
              const bytes = batch.reduce((sum, one) => sum + one.bytes, 0);
              expect(batch.length === 1 || bytes <= mostBytes).toBe(true);
              await new Promise(setImmediate);
              running--;
              return batch.map(({ n }) => n * 2);
            },
            { most, mostBytes },
          );
          const answers: Promise<number>[] = [];
          for (const [n, { bytes, wait }] of list.entries()) {
            answers.push(gather.ask({ n, bytes }, bytes));
            if (wait) await new Promise(setImmediate);
          }
          expect(await Promise.all(answers)).toEqual(list.map((_, n) => n * 2));
          await gather.idle();
          expect(gather.waiting).toEqual({ asks: 0, bytes: 0 });
        },
      ),
      { numRuns: 100 },
    );
  });

  it("refuses the one whose content can't be taken, by itself, and all when nothing could be done", async () => {
    const gather = new Gather<string, string>(
      async (batch) => {
        await Promise.resolve();
        if (batch.includes("away")) throw new Error("no connection");
        if (batch.includes("bad")) throw Object.assign(new Error("not text"), { code: "22P05" });
        return batch.map((one) => (one === "no" ? new Error("refused") : one));
      },
      { most: 100 },
    );
    const outcome = async (...asks: string[]): Promise<string[]> =>
      (await Promise.allSettled(asks.map((one) => gather.ask(one)))).map(({ status }) => status);
    expect(await outcome("a", "bad", "b")).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(await outcome("a", "no", "b")).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(await outcome("a", "away", "b")).toEqual(["rejected", "rejected", "rejected"]);
    expect(await gather.ask("after")).toBe("after");
  });
});
