import { CountersignError } from "../domain/errors.ts";
import { utf8 } from "../domain/bytes.ts";
import { encodeElement } from "./der-write.ts";
import { derError, TAG, type DerReader } from "./der.ts";

/** 9999-12-31T23:59:59Z: "no well-defined expiration" (RFC 5280 section 4.1.2.5). */
export const NO_EXPIRY = new Date(Date.UTC(9999, 11, 31, 23, 59, 59));

/**
 * Time (RFC 5280 section 4.1.2.5): YYMMDDHHMMSSZ through 2049, YYYYMMDDHHMMSSZ after, nothing else.
 * @throws CountersignError `der-invalid`
 */
export function readTime(reader: DerReader): Date {
  const { tag, content, offset } = reader.read();
  if (tag !== TAG.utcTime && tag !== TAG.generalizedTime) throw derError("not a time", offset);
  const text = String.fromCharCode(...content.subarray(0, 32));
  const match = (tag === TAG.utcTime ? /^(\d{2})(\d{10})Z$/ : /^(\d{4})(\d{10})Z$/).exec(text);
  if (match === null || text.length !== content.length) throw derError("malformed time", offset);
  const short = Number(match[1]);
  const year = tag === TAG.generalizedTime ? short : short < 50 ? 2000 + short : 1900 + short;
  if (tag === TAG.generalizedTime && year < 2050) throw derError("a year before 2050 must be UTCTime", offset);
  const [month, day, hour, minute, second] = match[2]!.match(/../g)!.map(Number) as [
    number,
    number,
    number,
    number,
    number,
  ];
  const time = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  const exact =
    time.getUTCMonth() === month - 1 && time.getUTCDate() === day && hour < 24 && minute < 60 && second < 60;
  if (!exact) throw derError("no such date or time", offset);
  return time;
}

/** @throws CountersignError `input-invalid` for fractions of a second and years outside 1950 to 9999 */
export function encodeTime(time: Date): Uint8Array {
  const year = time.getUTCFullYear();
  if (Number.isNaN(time.getTime()) || time.getUTCMilliseconds() !== 0 || year < 1950 || year > 9999) {
    throw new CountersignError("input-invalid", "a certificate time must be whole seconds in 1950 to 9999");
  }
  const digits = `${time.toISOString().slice(0, 19).replace(/[-T:]/g, "")}Z`;
  return year < 2050
    ? encodeElement(TAG.utcTime, utf8(digits.slice(2)))
    : encodeElement(TAG.generalizedTime, utf8(digits));
}

/** Drops the fraction of a second, which certificates can't hold. */
export function wholeSeconds(time: Date): Date {
  return new Date(Math.floor(time.getTime() / 1000) * 1000);
}
