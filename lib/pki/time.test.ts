import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { utf8 } from "../domain/bytes.ts";
import { encodeElement } from "./der-write.ts";
import { DerReader, TAG } from "./der.ts";
import { encodeGeneralizedTime, encodeTime, NO_EXPIRY, readGeneralizedTime, readTime } from "./time.ts";

const utc = (text: string) => readTime(new DerReader(encodeElement(TAG.utcTime, utf8(text))));
const generalized = (text: string) => readTime(new DerReader(encodeElement(TAG.generalizedTime, utf8(text))));

describe("certificate times", () => {
  it("read back what was written, from 1950 to 9999", () => {
    const seconds = fc.integer({ min: Date.UTC(1950, 0) / 1000, max: NO_EXPIRY.getTime() / 1000 });
    fc.assert(
      fc.property(seconds, (s) => {
        const time = new Date(s * 1000);
        const encoded = encodeTime(time);
        expect(encoded[0]).toBe(time.getUTCFullYear() < 2050 ? TAG.utcTime : TAG.generalizedTime);
        expect(readTime(new DerReader(encoded))).toEqual(time);
        expect(readGeneralizedTime(new DerReader(encodeGeneralizedTime(time)))).toEqual(time);
      }),
    );
    expect(generalized("99991231235959Z")).toEqual(NO_EXPIRY);
    expect(utc("491231235959Z").getUTCFullYear()).toBe(2049);
    expect(utc("500101000000Z").getUTCFullYear()).toBe(1950);
  });

  it.each([
    "2611221200Z",
    "261122120000+0100",
    "261122120000",
    "260230000000Z",
    "261301000000Z",
    "260100000000Z",
    "260101240000Z",
    "260101006000Z",
    "260101000060Z",
    "26010100000 Z",
    "-10101000000Z",
    "260101000000ZZ",
    "",
  ])("refuse %j as UTCTime", (text) => {
    expect(() => utc(text)).toThrow(/time/);
  });

  it.each(["20260101000000Z", "20500101000000.5Z", "20500101000000", "20500229000000Z", "00000101000000Z"])(
    "refuse %j as GeneralizedTime",
    (text) => {
      expect(() => generalized(text)).toThrow(/time|year/);
    },
  );

  it("can't be fractions of a second, out of range or no time at all", () => {
    for (const time of [
      new Date(1),
      new Date(Number.NaN),
      new Date(Date.UTC(1949, 0)),
      new Date(Date.UTC(10_000, 0)),
    ]) {
      expect(() => encodeTime(time)).toThrow(/whole seconds/);
    }
  });
});
