import { describe, expect, it } from "vitest";
import { addSessions, assertThreadsFor, sessionCount, threadPoolSize, threadsForSessions } from "./threads.ts";

describe("threads", () => {
  it("are as many as libuv makes of its variable", () => {
    expect([undefined, "8", "0", "-3", "many", "100000"].map((value) => threadPoolSize(value))).toEqual([
      Number(process.env["UV_THREADPOOL_SIZE"]),
      8,
      1,
      1,
      1,
      1024,
    ]);
  });

  it("must suffice for all sessions of the process", () => {
    assertThreadsFor(8, 8);
    expect(() => assertThreadsFor(9, 8)).toThrow(
      expect.objectContaining({
        code: "input-invalid",
        message: expect.stringMatching(/9 HSM sessions.*has 8.*UV_THREADPOOL_SIZE=22/) as string,
      }),
    );
    const before = sessionCount();
    addSessions(4);
    expect(() => assertThreadsFor(5, before + 8)).toThrow("sessions");
    addSessions(-4);
    assertThreadsFor(5, before + 8);
    expect(threadsForSessions(64)).toBe(132);
    expect(threadsForSessions(1000)).toBe(1024);
  });
});
