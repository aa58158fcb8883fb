import { afterEach, expect, it, vi } from "vitest";
import { Gatherer } from "./gather.ts";

/** Batches are named `lot:items:name`. Work ends when it is told to. */
function gathering(
  sizes?: (batches: readonly string[]) => Promise<ReadonlyMap<string, { lot: string; count: number }>>,
) {
  const begun: string[][] = [];
  const ends: ((error?: Error) => void)[] = [];
  const beats: (() => void)[] = [];
  const gatherer = new Gatherer({
    sizes:
      sizes ??
      (async (batches) =>
        new Map(
          batches.flatMap((batch) => {
            const [lot, count] = batch.split(":");
            return count === "none" ? [] : [[batch, { lot: lot!, count: Number(count) }] as const];
          }),
        )),
    work: (batches, onProgress) => {
      begun.push([...batches]);
      beats.push(onProgress);
      return new Promise((resolve, reject) => ends.push((error) => (error === undefined ? resolve() : reject(error))));
    },
  });
  const end = async (group: number, error?: Error): Promise<void> => {
    ends[group]!(error);
    await turns();
  };
  return { gatherer, begun, beats, end };
}

async function turns(): Promise<void> {
  for (let i = 0; i < 30; i++) await Promise.resolve();
}

afterEach(() => vi.useRealTimers());

it("begins at once where a lot is idle, and makes one group of what comes while two are at work", async () => {
  const { gatherer, begun, end } = gathering();
  const all = [gatherer.run("a:1:1")];
  await turns();
  expect(begun).toEqual([["a:1:1"]]);
  all.push(gatherer.run("a:1:2"));
  await turns();
  all.push(gatherer.run("a:1:3"), gatherer.run("a:16:4"), gatherer.run("b:1:1"));
  await turns();
  expect(begun).toEqual([["a:1:1"], ["a:1:2"], ["b:1:1"]]);
  all.push(gatherer.run("a:2:5"));
  await turns();
  expect(begun).toHaveLength(3);
  await end(0);
  expect(begun[3]).toEqual(["a:1:3", "a:16:4", "a:2:5"]);
  for (const group of [1, 2, 3]) await end(group);
  await Promise.all(all);
});

it("takes what comes in one go into one group, of so many items", async () => {
  const { gatherer, begun, end } = gathering();
  const all = Array.from({ length: 30 }, (_, i) => gatherer.run(`a:16:${i}`));
  await turns();
  expect(begun.map((group) => group.length)).toEqual([16, 14]);
  await end(0);
  await end(1);
  await Promise.all(all);
});

it("lets large batches, and those that aren't there, go by themselves", async () => {
  const { gatherer, begun, end } = gathering();
  const all = ["a:17:1", "a:none:2", "a:1:3", "a:256:4"].map((batch) => gatherer.run(batch));
  await turns();
  expect(begun.toSorted()).toEqual([["a:17:1"], ["a:1:3"], ["a:256:4"], ["a:none:2"]].toSorted());
  for (let i = 0; i < 4; i++) await end(i);
  await Promise.all(all);
});

it("gives each batch of a group that failed what is its own", async () => {
  const { gatherer, begun, end } = gathering();
  const outcome = Promise.allSettled(["a:1:1", "a:1:2", "a:1:3"].map((batch) => gatherer.run(batch)));
  await turns();
  await end(0, new Error("of one of them"));
  expect(begun.slice(1)).toEqual([["a:1:1"], ["a:1:2"], ["a:1:3"]]);
  // The group has its place until all have ended.
  await end(1);
  await end(2, new Error("its own"));
  await end(3);
  expect((await outcome).map((one) => (one.status === "fulfilled" ? null : (one.reason as Error).message))).toEqual([
    null,
    "its own",
    null,
  ]);
});

it("is heard of by those that wait as by those that are worked on, and not for ever held up", async () => {
  vi.useFakeTimers();
  const { gatherer, begun, beats, end } = gathering();
  const heard: string[] = [];
  const run = (batch: string) => gatherer.run(batch, () => heard.push(batch));
  const all = [run("a:1:1")];
  await turns();
  all.push(run("a:1:2"));
  await turns();
  all.push(run("a:1:3"));
  await turns();
  beats[0]!();
  expect(heard).toEqual(["a:1:1", "a:1:3"]);
  expect(begun).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(begun).toHaveLength(3);
  for (const group of [0, 1, 2]) await end(group);
  await Promise.all(all);
});

it("fails those whose sizes can't be read, and goes on with the next", async () => {
  let fails = true;
  const { gatherer, end } = gathering(async (batches) => {
    if (fails) throw new Error("no database");
    return new Map(batches.map((batch) => [batch, { lot: "a", count: 1 }]));
  });
  await expect(gatherer.run("one")).rejects.toThrow("no database");
  fails = false;
  const next = gatherer.run("two");
  await turns();
  await end(0);
  await next;
});
