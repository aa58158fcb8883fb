import { CountersignError } from "../../lib/domain/errors.ts";
import type { TwinValues } from "../../store/hub-traffic.ts";

/** Limits as IoT Hub has them. */
const MAX_TWIN_BYTES = 32 * 1024;
const MAX_DEPTH = 10;
const MAX_NAME_BYTES = 1024;

/**
 * A twin patch from outside: a JSON object whose names hold no control character, `.`, `$` or space.
 * @throws CountersignError `input-invalid`, `input-too-large`
 */
export function checkPatch(patch: unknown): TwinValues {
  if (!isObject(patch)) throw invalid("a twin patch is a JSON object");
  if (Buffer.byteLength(JSON.stringify(patch)) > MAX_TWIN_BYTES) throw tooLarge();
  checkNames(patch, 1);
  return patch;
}

/** @throws CountersignError `input-invalid` */
export function parsePatch(bytes: Uint8Array): TwinValues {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new CountersignError("input-invalid", "a twin patch is a JSON object", { cause });
  }
  return checkPatch(value);
}

/**
 * Objects merge, null removes, everything else replaces (RFC 7396).
 * @throws CountersignError `input-too-large` when the result is more than a twin may hold
 */
export function applyPatch(values: TwinValues, patch: TwinValues): TwinValues {
  const merged = merge(values, patch);
  if (Buffer.byteLength(JSON.stringify(merged)) > MAX_TWIN_BYTES) throw tooLarge();
  return merged;
}

function merge(target: TwinValues, patch: TwinValues): TwinValues {
  // By entries: a name like __proto__ is a value's name here and nothing else.
  const result = new Map(Object.entries(target));
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) result.delete(name);
    else if (isObject(value)) {
      const before = result.get(name);
      result.set(name, merge(isObject(before) ? before : {}, value));
    } else result.set(name, value);
  }
  return Object.fromEntries(result);
}

function checkNames(value: unknown, depth: number): void {
  if (typeof value === "string" && value.includes("\0")) throw invalid("a twin's text holds no NUL");
  if (typeof value !== "object" || value === null) return;
  if (depth > MAX_DEPTH) throw invalid(`a twin is at most ${MAX_DEPTH} levels deep`);
  for (const [name, inner] of Object.entries(value)) {
    if (!Array.isArray(value)) {
      // oxlint-disable-next-line no-control-regex -- exactly these are refused
      if (name === "" || Buffer.byteLength(name) > MAX_NAME_BYTES || /[\u0000-\u001f\u007f-\u009f.$ ]/.test(name)) {
        throw invalid("a twin's names hold no control character, '.', '$' or space");
      }
    }
    checkNames(inner, depth + 1);
  }
}

function isObject(value: unknown): value is TwinValues {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(message: string): CountersignError {
  return new CountersignError("input-invalid", message);
}

function tooLarge(): CountersignError {
  return new CountersignError("input-too-large", `a twin's part holds at most ${MAX_TWIN_BYTES} bytes`);
}
