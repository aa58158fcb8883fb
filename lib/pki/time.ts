import { utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { encodeElement } from "./der-write.ts";
import { derError, TAG, type DerElement, type DerReader } from "./der.ts";

/** 9999-12-31T23:59:59Z: "no well-defined expiration" (RFC 5280 section 4.1.2.5). */
export const NO_EXPIRY = new Date(Date.UTC(9999, 11, 31, 23, 59, 59));

/**
 * Time (RFC 5280 section 4.1.2.5): YYMMDDHHMMSSZ through 2049, YYYYMMDDHHMMSSZ after, nothing else.
 * @throws CountersignError `der-invalid`
 */
export function readTime(reader: DerReader): Date {
  const element = reader.read();
  if (element.tag === TAG.utcTime) {
    const short = pair(element, 0, 2);
    return decode(element, short < 50 ? 2000 + short : 1900 + short, 2);
  }
  if (element.tag !== TAG.generalizedTime) throw derError("not a time", element.offset);
  const time = decode(element, longYear(element), 4);
  if (time.getUTCFullYear() < 2050) throw derError("a year before 2050 must be UTCTime", element.offset);
  return time;
}

/** GeneralizedTime of any year, whole seconds (RFC 5280 section 5.3.2). Throws as {@link readTime}. */
export function readGeneralizedTime(reader: DerReader): Date {
  const element = reader.read(TAG.generalizedTime);
  return decode(element, longYear(element), 4);
}

function longYear(element: DerElement): number {
  return 100 * pair(element, 0, 4) + pair(element, 2, 4);
}

/** Two digits of a time of exactly this form: digits of a year of `yearDigits`, ten more digits and a Z. */
function pair({ content, offset }: DerElement, at: number, yearDigits: number): number {
  const tens = content[at]! - 0x30;
  const ones = content[at + 1]! - 0x30;
  const wellFormed = content.length === yearDigits + 11 && content[yearDigits + 10] === 0x5a;
  if (!wellFormed || !(tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9)) throw derError("malformed time", offset);
  return 10 * tens + ones;
}

function decode(element: DerElement, year: number, yearDigits: number): Date {
  const field = (index: number): number => pair(element, yearDigits + 2 * index, yearDigits);
  const [month, day, hour, minute, second] = [field(0), field(1), field(2), field(3), field(4)];
  const time = new Date(0);
  time.setUTCFullYear(year, month - 1, day);
  time.setUTCHours(hour, minute, second);
  const exact =
    time.getUTCFullYear() === year &&
    time.getUTCMonth() === month - 1 &&
    time.getUTCDate() === day &&
    hour < 24 &&
    minute < 60 &&
    second < 60;
  if (!exact) throw derError("no such date or time", element.offset);
  return time;
}

/** @throws CountersignError `input-invalid` for fractions of a second and years outside 1950 to 9999 */
export function encodeTime(time: Date): Uint8Array {
  const digits = writeDigits(time);
  return time.getUTCFullYear() < 2050
    ? encodeElement(TAG.utcTime, utf8(digits.slice(2)))
    : encodeElement(TAG.generalizedTime, utf8(digits));
}

/** Throws as {@link encodeTime}. */
export function encodeGeneralizedTime(time: Date): Uint8Array {
  return encodeElement(TAG.generalizedTime, utf8(writeDigits(time)));
}

function writeDigits(time: Date): string {
  const year = time.getUTCFullYear();
  if (Number.isNaN(time.getTime()) || time.getUTCMilliseconds() !== 0 || year < 1950 || year > 9999) {
    throw new CountersignError("input-invalid", "a certificate time must be whole seconds in 1950 to 9999");
  }
  return `${time.toISOString().slice(0, 19).replace(/[-T:]/g, "")}Z`;
}

/** Drops the fraction of a second, which certificates can't hold. */
export function wholeSeconds(time: Date): Date {
  return new Date(Math.floor(time.getTime() / 1000) * 1000);
}
