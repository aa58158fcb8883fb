import { execFileSync, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { tempDir } from "../../../test/support/index.ts";
import { Child, waitUntilReady, type ChildOptions } from "./child.ts";

const alive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

const until = async (done: () => boolean) => {
  for (const deadline = Date.now() + 10_000; !done(); await new Promise((resolve) => setTimeout(resolve, 20))) {
    if (Date.now() > deadline) throw new Error("not in time");
  }
};

const shell = (script: string, options: Partial<ChildOptions> = {}): ChildOptions => ({
  name: "test child",
  command: "/bin/sh",
  args: ["-c", script],
  logFile: join(tempDir("child"), "child.log"),
  ...options,
});

/** A supervisor process of its own that starts the child and prints its pid; it can be killed like any other. */
async function supervisor(options: ChildOptions): Promise<{ kill(): void; childPid: number }> {
  const script = `
    import { Child } from ${JSON.stringify(join(import.meta.dirname, "child.ts"))};
    const child = await Child.start(${JSON.stringify(options)});
    console.log(child.pid);
    setInterval(() => {}, 1000);
  `;
  const process_ = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const childPid = await new Promise<number>((resolve) => {
    process_.stdout.once("data", (data: Buffer) => resolve(Number(data.toString())));
  });
  return { kill: () => process_.kill("SIGKILL"), childPid };
}

/** Of every process. A bare machine has /proc and no ps, a Mac the reverse. */
function commandLines(): string[] {
  if (!existsSync("/proc/self/cmdline"))
    return execFileSync("ps", ["-A", "-o", "args="], { encoding: "utf8" }).split("\n");
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8");
      } catch {
        return ""; // It has just ended.
      }
    });
}

describe("Child", () => {
  it("appends output to the log, in a private file, and reports the exit code", async () => {
    const options = shell("echo out; echo err >&2; umask; exit 7");
    const child = await Child.start(options);
    expect(await child.exited).toEqual({ code: 7, signal: null });
    expect(readFileSync(options.logFile, "utf8")).toBe("out\nerr\n0077\n");
    expect(child.logTail(1)).toBe("0077");
  });

  it("passes arguments as they are, without a shell reading them", async () => {
    const args = ["-c", 'printf "%s|" "$@"', "sh", "a b", "$(exit 1)", "'; exit 9"];
    const child = await Child.start(shell("", { args }));
    expect((await child.exited).code).toBe(0);
    expect(child.logTail()).toBe("a b|$(exit 1)|'; exit 9|");
  });

  it("stops with the given signal", async () => {
    const child = await Child.start(
      shell("trap 'exit 3' INT; echo up; while :; do sleep 0.05; done", { stopSignal: "SIGINT" }),
    );
    await until(() => child.logTail() === "up");
    expect(await child.stop()).toEqual({ code: 3, signal: null });
    expect(await child.stop()).toEqual({ code: 3, signal: null });
  });

  it("kills one that doesn't listen", async () => {
    const child = await Child.start(
      shell("trap '' TERM; echo up; while :; do sleep 0.05; done", { stopTimeoutMs: 200 }),
    );
    await until(() => child.logTail() === "up");
    expect(await child.stop()).toEqual({ code: null, signal: "SIGKILL" });
  });

  it("says that a command can't be run", async () => {
    const child = await Child.start(shell("", { command: "/nowhere/server", args: [] }));
    await expect(waitUntilReady(child, async () => false, 5_000)).rejects.toMatchObject({
      code: "component-unreachable",
      message: expect.stringMatching(/test child ended while starting.*\n.*\/nowhere\/server/),
    });
  });

  it("says so when the child isn't ready in time, with the probe's error as the cause", async () => {
    const child = await Child.start(shell("echo thinking; sleep 30"));
    await until(() => child.logTail() === "thinking");
    const probe = async () => {
      throw new Error("connection refused");
    };
    await expect(waitUntilReady(child, probe, 300)).rejects.toMatchObject({
      message: expect.stringMatching(/not ready after 0.3 s.*\nthinking/),
      cause: expect.objectContaining({ message: "connection refused" }),
    });
    await child.stop();
  });

  it("does not outlive a supervisor that is killed with -9", async () => {
    const { kill, childPid } = await supervisor(shell("sleep 300; :"));
    expect(alive(childPid)).toBe(true);
    kill();
    await until(() => !alive(childPid));
  });

  it("does not outlive it either when the child ignores the stop signal", async () => {
    const { kill, childPid } = await supervisor(
      shell("trap '' TERM; while :; do sleep 0.05; done", { stopTimeoutMs: 300 }),
    );
    kill();
    await until(() => !alive(childPid));
  });

  it("signals nobody after the child has ended by itself", async () => {
    // The guard is told; were it not, it would signal whoever has the number by then.
    const child = await Child.start(shell("exit 0"));
    await child.exited;
    const guards = () =>
      commandLines().filter((line) => line.includes(child.logFile) || line.includes("unique-guard-name"));
    const named = await Child.start(shell("sleep 300; :", { name: "unique-guard-name" }));
    await until(() => guards().length > 0);
    await named.stop();
    await until(() => guards().length === 0);
  });

  it("carries Node's IPC, and shows the child's end on it", async () => {
    const file = join(tempDir("ipc"), "child.mjs");
    writeFileSync(file, 'process.on("message", (m) => { process.send({ got: m }, () => process.exit(0)); });');
    const child = await Child.start(shell("", { command: process.execPath, args: [file], ipc: true }));
    const answer = new Promise((resolve) => child.process.once("message", resolve));
    const disconnected = new Promise((resolve) => child.process.once("disconnect", () => resolve("disconnected")));
    child.process.send("hello");
    expect(await answer).toEqual({ got: "hello" });
    expect(await disconnected).toBe("disconnected");
    expect(await child.exited).toEqual({ code: 0, signal: null });
  });
});
