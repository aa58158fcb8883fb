import { describe, expect, it } from "vitest";
import { DenialWindow } from "./denials.ts";

describe("denial windows", () => {
  it("fill up, and empty with time", () => {
    let now = 0;
    const window = new DenialWindow({ limit: 2, windowMs: 1000, now: () => now });
    expect(window.add("a")).toBe(1);
    expect(window.exceeded("a")).toBe(false);
    expect(window.add("a")).toBe(2);
    expect(window.exceeded("a")).toBe(true);
    expect(window.exceeded("b")).toBe(false);
    now = 999;
    expect(window.exceeded("a")).toBe(true);
    now = 1000;
    expect(window.exceeded("a")).toBe(false);
    expect(window.add("a")).toBe(1);
    window.forget("a");
    expect(window.add("a")).toBe(1);
  });

  it("stay small whoever calls", () => {
    const window = new DenialWindow({ limit: 1, windowMs: 1_000_000 });
    for (let i = 0; i < 10_001; i++) window.add(`k${i}`);
    expect(window.exceeded("k0")).toBe(false);
    expect(window.exceeded("k10000")).toBe(true);
  });
});
