import { expect, it } from "vitest";
import { LoopHold } from "./loop-hold.ts";

it("sees a turn that computes or waits, at its length", async () => {
  const pause = (ms: number) => new Promise((wake) => setTimeout(wake, ms));
  const hold = new LoopHold();
  hold.start();
  await pause(50);
  const cpu = process.threadCpuUsage();
  const used = (): number => {
    const { user, system } = process.threadCpuUsage(cpu);
    return (user + system) / 1000;
  };
  while (used() < 80);
  await pause(10);
  // Blocked, as in a lock.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
  await pause(10);
  const { p50, max } = hold.stop();
  expect(max).toBeGreaterThan(190);
  expect(max).toBeLessThan(400);
  expect(p50).toBeLessThan(80);
});
