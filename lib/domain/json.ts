import canonicalize from "canonicalize";
import { utf8 } from "./bytes.ts";
import { CountersignError } from "./errors.ts";

/**
 * RFC 8785 canonical JSON, as UTF-8 bytes. Everything that is hashed or signed as JSON goes through here once and is
 * then kept as bytes.
 * @throws CountersignError `input-invalid` for values JSON can't hold (lone surrogates, NaN, undefined at the top)
 */
export function canonicalJson(value: unknown): Uint8Array {
  let text: string | undefined;
  try {
    text = isPlainTextList(value) ? JSON.stringify(value) : canonicalize(value);
  } catch (cause) {
    throw new CountersignError("input-invalid", "the value has no canonical JSON form", { cause });
  }
  if (text === undefined) throw new CountersignError("input-invalid", "the value has no canonical JSON form");
  return utf8(text);
}

/** A list of printable ASCII has one JSON form, which JSON.stringify writes: names and digests, hashed for every act. */
function isPlainTextList(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string" && /^[ -~]*$/.test(item));
}
