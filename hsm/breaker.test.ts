import { describe, expect, it } from "vitest";
import { CountersignError } from "../lib/domain/errors.ts";
import { Breaker } from "./breaker.ts";

const fault = () => new CountersignError("hsm-token-missing", "the token isn't there");

function breaker() {
  const clock = { now: 1_000 };
  const opened: string[] = [];
  const one = new Breaker(
    "t",
    { failures: 3, retryAfterMs: 100 },
    ({ code }) => opened.push(code),
    () => clock.now,
  );
  const fail = () => one.enter().failed(fault());
  return { clock, opened, one, fail };
}

describe("a circuit breaker", () => {
  it("opens after failures in a row, lets one probe through when the time has come, closes on success", () => {
    const { clock, opened, one, fail } = breaker();
    fail();
    fail();
    one.enter().succeeded();
    fail();
    fail();
    expect(one.state).toBe("closed");
    fail();
    expect(one.state).toBe("open");
    expect(opened).toEqual(["hsm-token-missing"]);
    expect(one.openSince).toEqual(new Date(1_000));
    expect(one.lastError).toEqual({ code: "hsm-token-missing", message: "the token isn't there", at: new Date(1_000) });
    expect(() => one.enter()).toThrow(
      expect.objectContaining({ code: "hsm-token-missing", details: { token: "t", refused: "circuit-open" } }),
    );
    clock.now += 100;
    expect(one.state).toBe("half-open");
    const probe = one.enter();
    expect(() => one.enter()).toThrow("last failure");
    probe.succeeded();
    expect(one.state).toBe("closed");
    expect(one.openSince).toBeUndefined();
    one.enter().succeeded();
  });

  it("waits twice as long after each probe that failed, up to eight times", () => {
    const { clock, one, fail } = breaker();
    for (let i = 0; i < 3; i++) fail();
    for (const wait of [100, 200, 400, 800, 800, 800]) {
      clock.now += wait - 1;
      expect(() => one.enter()).toThrow();
      clock.now += 1;
      fail();
    }
    expect(one.openSince).toEqual(new Date(1_000));
  });

  it("isn't moved by those who set out before it opened, by refusals, nor by faults of a request", () => {
    const { clock, one, fail } = breaker();
    const early = [one.enter(), one.enter()];
    one.enter().failed(new CountersignError("key-unsupported", "no such curve"));
    one.enter().failed(new CountersignError("hsm-unavailable", "full", { details: { refused: "queue-full" } }));
    one.enter().failed(new CountersignError("hsm-key-missing", "no such key"));
    expect(one.failures).toBe(0);
    for (let i = 0; i < 3; i++) fail();
    early[0]!.failed(fault());
    clock.now += 100;
    const probe = one.enter();
    probe.failed(new CountersignError("hsm-unavailable", "full", { details: { refused: "queue-full" } }));
    // The probe told nothing: the next one tries.
    one.enter().succeeded();
    early[1]!.succeeded();
    expect(one.state).toBe("closed");
  });
});
