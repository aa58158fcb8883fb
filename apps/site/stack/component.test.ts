import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { tempDir } from "../../../test/support/index.ts";
import { Child } from "./child.ts";
import { Component } from "./component.ts";

const until = async (done: () => boolean) => {
  for (const deadline = Date.now() + 10_000; !done(); await new Promise((resolve) => setTimeout(resolve, 20))) {
    if (Date.now() > deadline) throw new Error("not in time");
  }
};

/** A process that sleeps; its next starts fail as often as asked. */
function sleeper() {
  const logFile = join(tempDir("component"), "log");
  const state = { failures: 0, started: 0 };
  const component = new Component({
    name: "sleeper",
    kind: "site",
    start: async (onChild) => {
      const child = await Child.start({ name: "sleeper", command: "/bin/sleep", args: ["300"], logFile });
      onChild(child);
      state.started++;
      if (state.failures-- > 0) {
        await child.stop();
        throw new Error("not yet");
      }
    },
  });
  return { component, state };
}

describe("Component", () => {
  it("starts its process again after a kill, as often as that takes, until it is stopped", async () => {
    const { component, state } = sleeper();
    const ends: string[] = [];
    await component.start();
    component.watch(true, (name) => ends.push(name));
    const first = component.pid!;
    state.failures = 2;
    process.kill(first, "SIGKILL");
    await until(() => component.restarts === 3 && component.ready);
    expect(component.pid).not.toBe(first);
    expect(ends).toEqual(["sleeper"]);
    process.kill(component.pid!, "SIGKILL");
    await until(() => component.restarts === 4 && component.ready);

    await component.stop();
    expect(component).toMatchObject({ pid: undefined, ready: false });
    expect(state.started).toBe(5);
    expect(ends).toEqual(["sleeper", "sleeper"]);
  });

  it("is told of once, and left, without a restart", async () => {
    const { component, state } = sleeper();
    const ends: string[] = [];
    await component.start();
    component.watch(false, (name) => ends.push(name));
    process.kill(component.pid!, "SIGKILL");
    await until(() => ends.length === 1);
    expect(component).toMatchObject({ pid: undefined, ready: false, restarts: 0 });
    await component.stop();
    expect(state.started).toBe(1);
  });

  it("can be stopped while it is between two processes", async () => {
    const { component, state } = sleeper();
    await component.start();
    component.watch(true, () => undefined);
    state.failures = 1_000;
    process.kill(component.pid!, "SIGKILL");
    await until(() => component.restarts >= 2);
    await component.stop();
    const { started } = state;
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(state.started).toBe(started);
    expect(component.pid).toBeUndefined();
  });

  it("without a process of ours, serves once it is started", async () => {
    const component = new Component({ name: "theirs", kind: "postgres", start: async () => undefined });
    expect(component.ready).toBe(false);
    await component.start();
    component.watch(true, () => undefined);
    expect(component).toMatchObject({ ready: true, pid: undefined });
    await component.stop();
  });
});
