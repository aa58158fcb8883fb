import { afterEach, describe, expect, it, vi } from "vitest";
import { UnderWay } from "./under-way.ts";

const at = { lot: "lot-1", kind: "certify" } as const;
const batch = (id: string, lot = "lot-1", kind: "built" | "certify" = "certify", count = 256) => ({
  ...{ id, lot, kind, count },
});

/** Work that ends when it is told to, and how much of it there is. */
function works() {
  const open = new Map<string, (done?: boolean) => void>();
  const begun: string[] = [];
  const begin = (id: string): Promise<boolean> => {
    begun.push(id);
    return new Promise((resolve) => open.set(id, (done = true) => resolve(done)));
  };
  const own = (id: string) => async (): Promise<void> => {
    if (!(await begin(id))) throw new Error(`${id} failed`);
  };
  const end = async (id: string, done = true): Promise<void> => {
    open.get(id)!(done);
    await turns();
  };
  return { begun, begin, own, end };
}

async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

afterEach(() => vi.useRealTimers());

describe("work that is under way", () => {
  it("is joined by batches of its lot and kind, and by no others, until it ends", async () => {
    const { begun, begin, own, end } = works();
    const underWay = new UnderWay(3);
    expect(underWay.offer(batch("early"))).toBeUndefined();

    const run = underWay.run(at, [own("own")], begin);
    expect(underWay.offer(batch("other-lot", "lot-2"))).toBeUndefined();
    expect(underWay.offer(batch("other-kind", "lot-1", "built"))).toBeUndefined();
    const joined = underWay.offer(batch("joined"));
    expect(begun).toEqual(["own", "joined"]);

    await end("own");
    const second = underWay.offer(batch("second"));
    await end("joined");
    await expect(joined).resolves.toBe(true);
    await end("second", false);
    await expect(second).resolves.toBe(false);
    await expect(run).resolves.toEqual([{ status: "fulfilled", value: undefined }]);
    expect(underWay.offer(batch("late"))).toBeUndefined();
  });

  it("has so many batches side by side, as many again that wait, and no more", async () => {
    const { begun, begin, own, end } = works();
    const underWay = new UnderWay(3);
    const run = underWay.run(at, [own("own")], begin);
    const taken = Array.from({ length: 15 }, (_, i) => underWay.offer(batch(`b${i}`)));
    expect(taken).not.toContain(undefined);
    expect(underWay.offer(batch("b15"))).toBeUndefined();
    expect(begun).toHaveLength(8);
    await end("b0");
    expect(begun).toHaveLength(9);

    // Whoever has the least work takes the next.
    const other = works();
    const beside = underWay.run(at, [other.own("beside")], other.begin);
    void underWay.offer(batch("b16"));
    expect(other.begun).toEqual(["beside", "b16"]);
    for (const id of ["own", ...begun]) await end(id);
    for (let i = 0; i < 15; i++) await end(`b${i}`);
    await other.end("beside");
    await other.end("b16");
    await Promise.all([run, beside, ...taken]);
  });

  it("lets eight small ones in for one, of those that are worked on together", async () => {
    const { begun, begin, own, end } = works();
    const underWay = new UnderWay(3);
    const run = underWay.run(at, [own("own")], begin);
    const taken = Array.from({ length: 120 }, (_, i) => underWay.offer(batch(`s${i}`, "lot-1", "certify", 1)));
    expect(taken).not.toContain(undefined);
    expect(underWay.offer(batch("more", "lot-1", "certify", 1))).toBeUndefined();
    expect(begun).toHaveLength(1 + 7 * 8);
    await end("own");
    expect(begun).toHaveLength(1 + 8 * 8);
    for (let i = 0; i < taken.length; i++) await end(`s${i}`);
    await Promise.all([run, ...taken]);

    const little = works();
    const small = underWay.run(
      { ...at, small: true },
      Array.from({ length: 64 }, (_, i) => little.own(`o${i}`)),
      little.begin,
    );
    expect(underWay.offer(batch("large"))).toBeDefined();
    expect(little.begun).toHaveLength(64);
    await little.end("o0");
    expect(little.begun).toContain("large");
    for (const id of little.begun) await little.end(id);
    await small;

    const other = works();
    const building = underWay.run({ ...at, kind: "built" }, [other.own("own")], other.begin);
    const built = Array.from({ length: 15 }, (_, i) => underWay.offer(batch(`t${i}`, "lot-1", "built", 1)));
    expect(underWay.offer(batch("more", "lot-1", "built", 1))).toBeUndefined();
    expect(other.begun).toHaveLength(8);
    for (let i = 0; i < other.begun.length; i++) await other.end(other.begun[i]!);
    await Promise.all([building, ...built]);
  });

  it("lets a lane go for a batch that none takes, when all are at work", async () => {
    const { begun, begin, own, end } = works();
    const underWay = new UnderWay(2);
    const first = underWay.run(at, [own("own")], begin);
    expect(underWay.offer(batch("built", "lot-1", "built"))).toBeUndefined();
    // One lane is free for it.
    const joined = Array.from({ length: 9 }, (_, i) => underWay.offer(batch(`b${i}`)));
    const second = underWay.run(at, [own("beside")], begin);
    expect(underWay.offer(batch("built-2", "lot-1", "built"))).toBeUndefined();
    const more = Array.from({ length: 15 }, (_, i) => underWay.offer(batch(`c${i}`)));
    // The one with the least work ends; the other has room for six.
    expect(more.filter((one) => one !== undefined)).toHaveLength(6);
    await end("beside");
    await second;
    for (let i = 0; i < begun.length; i++) if (begun[i] !== "beside") await end(begun[i]!);
    await expect(Promise.all([...joined, ...more.slice(0, 6)])).resolves.toEqual(Array(15).fill(true));
    await first;
  });

  it("ends with its own when others wait for the lane, and those that joined by then", async () => {
    const { begun, begin, own, end } = works();
    const underWay = new UnderWay(3);
    const run = underWay.run({ ...at, queued: true }, [own("own")], begin);
    const joined = underWay.offer(batch("joined"));
    expect(begun).toEqual(["own", "joined"]);
    await end("own");
    expect(underWay.offer(batch("late"))).toBeUndefined();
    await end("joined");
    await expect(joined).resolves.toBe(true);
    await run;
  });

  it("takes nothing more once one of its own failed, and gives back what waits", async () => {
    const { begun, begin, own, end } = works();
    const underWay = new UnderWay(3);
    const run = underWay.run(at, [own("good"), own("bad")], begin);
    const taken = Array.from({ length: 8 }, (_, i) => underWay.offer(batch(`b${i}`))!);
    await end("bad", false);
    expect(underWay.offer(batch("late"))).toBeUndefined();
    expect(begun).toHaveLength(8);
    await expect(Promise.all(taken.slice(6))).resolves.toEqual([false, false]);
    for (const id of begun) await end(id);
    await expect(Promise.all(taken.slice(0, 6))).resolves.toEqual(Array(6).fill(true));
    await expect(run).resolves.toMatchObject([{ status: "fulfilled" }, { status: "rejected" }]);
  });

  it("stays open a little for what comes next, unless another kind needs its lane", async () => {
    vi.useFakeTimers();
    const { begun, begin, own, end } = works();
    const underWay = new UnderWay(1);
    let ended = false;
    const run = underWay.run(at, [own("own")], begin).then(() => (ended = true));
    await end("own");
    await vi.advanceTimersByTimeAsync(200);
    const next = underWay.offer(batch("next"));
    expect(begun).toEqual(["own", "next"]);
    await vi.advanceTimersByTimeAsync(1_000);
    await end("next");
    await expect(next).resolves.toBe(true);
    await vi.advanceTimersByTimeAsync(200);
    expect(ended).toBe(false);
    expect(underWay.offer(batch("built", "lot-1", "built"))).toBeUndefined();
    await turns();
    expect(ended).toBe(true);
    await run;

    const idle = underWay.run(at, [own("alone")], begin);
    await end("alone");
    await vi.advanceTimersByTimeAsync(250);
    await idle;
    expect(underWay.offer(batch("late"))).toBeUndefined();
  });

  it("ends some time, however many come", async () => {
    vi.useFakeTimers();
    const { begin, own, end } = works();
    const underWay = new UnderWay(3);
    const run = underWay.run(at, [own("own")], begin);
    const joined = underWay.offer(batch("joined"));
    await end("own");
    await vi.advanceTimersByTimeAsync(10_000);
    expect(underWay.offer(batch("late"))).toBeUndefined();
    await end("joined");
    await expect(joined).resolves.toBe(true);
    await run;
  });

  it("doesn't fail for what one that joined throws", async () => {
    const { own, end } = works();
    const underWay = new UnderWay(3);
    const run = underWay.run(at, [own("own")], () => Promise.reject(new Error("out of reach")));
    await expect(underWay.offer(batch("joined"))).resolves.toBe(false);
    await end("own");
    await run;
  });
});
