import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isCountersignError } from "../../lib/domain/errors.ts";
import { messageTopic, parseHeard, parseSaid } from "./device-topics.ts";
import { applyPatch, checkPatch, parsePatch } from "./twin.ts";

describe("a twin's patch", () => {
  // RFC 7396, appendix A, those whose target and patch are objects
  it.each([
    [{ a: "b" }, { a: "c" }, { a: "c" }],
    [{ a: "b" }, { b: "c" }, { a: "b", b: "c" }],
    [{ a: "b" }, { a: null }, {}],
    [{ a: "b", b: "c" }, { a: null }, { b: "c" }],
    [{ a: ["b"] }, { a: "c" }, { a: "c" }],
    [{ a: "c" }, { a: ["b"] }, { a: ["b"] }],
    [{ a: { b: "c" } }, { a: { b: "d", c: null } }, { a: { b: "d" } }],
    [{ a: [{ b: "c" }] }, { a: [1] }, { a: [1] }],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ])("%j with %j is %j", (target, patch, result) => expect(applyPatch(target, patch)).toEqual(result));

  it.each([
    "",
    " ",
    "[]",
    "null",
    "1",
    '"a"',
    "{",
    '{"a.b":1}',
    '{"$version":1}',
    '{"a b":1}',
    '{"":1}',
    '{"a":"\\u0000"}',
  ])("refuses %j", (text) =>
    expect(() => parsePatch(Buffer.from(text))).toThrow(expect.objectContaining({ code: "input-invalid" })),
  );

  it("refuses what is too deep or too large, also when only the sum is", () => {
    let deep: Record<string, unknown> = {};
    for (let i = 0; i < 11; i++) deep = { a: deep };
    expect(() => checkPatch(deep)).toThrow(/levels/);
    const half = { a: "x".repeat(20_000) };
    expect(() => applyPatch(half, { b: "x".repeat(20_000) })).toThrow(/bytes/);
    expect(() => checkPatch({ a: "x".repeat(40_000) })).toThrow(/bytes/);
  });

  it("takes no name for a prototype's", () => {
    const merged = applyPatch({}, parsePatch(Buffer.from('{"__proto__":{"admin":true}}')));
    expect(Object.keys(merged)).toEqual(["__proto__"]);
    expect(({} as Record<string, unknown>)["admin"]).toBeUndefined();
  });

  it("never ends in anything but a result or a refusal", () => {
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string()), (text) => {
        try {
          applyPatch({}, parsePatch(Buffer.from(text)));
        } catch (error) {
          if (!isCountersignError(error)) throw error;
        }
      }),
    );
  });
});

describe("a device's topics", () => {
  it("are read as what they ask for", () => {
    expect(parseSaid("$iothub/twin/GET/?$rid=a-1", "d")).toEqual({ kind: "twin-get", requestId: "a-1" });
    expect(parseSaid("$iothub/twin/PATCH/properties/reported/?$rid=7", "d")).toEqual({
      kind: "twin-report",
      requestId: "7",
    });
    expect(parseSaid("$iothub/methods/res/-1/?$rid=7", "d")).toEqual({
      kind: "method-answer",
      requestId: "7",
      status: -1,
    });
    expect(parseSaid("devices/d/messages/events/a=b", "d")).toMatchObject({ kind: "event" });
    expect(parseSaid("devices/e/messages/events/a=b", "d")).toBeUndefined();
  });

  it("are never widened by what a filter holds", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        void parseSaid(text, "d");
        expect(parseHeard(`${text}#`, "d")).toBeUndefined();
        expect(parseHeard(`devices/${text}/messages/devicebound/#`, "dd")).toBe(text === "dd" ? "messages" : undefined);
      }),
    );
  });

  it("carry any property, as the wire has it", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string({ unit: "grapheme", minLength: 1 }), fc.string({ unit: "grapheme" })),
        (p) => {
          const topic = messageTopic("d", { system: {}, properties: p });
          expect(topic).not.toMatch(/[+#\0]/);
          const bag = topic.slice("devices/d/messages/devicebound/".length).split("&");
          const read = bag.map((pair) => pair.split("=").map(decodeURIComponent));
          expect(Object.fromEntries(read)).toEqual({ "$.to": "/devices/d/messages/devicebound", ...p });
        },
      ),
    );
  });
});
