import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { CountersignError } from "../../../lib/domain/errors.ts";

/** How long one signature is good for: longer than a request, shorter than a lost log. */
const SECONDS = 3600;

/** As Azure's SDKs encode: more than `encodeURIComponent`. */
function strict(text: string): string {
  return encodeURIComponent(text).replaceAll(/[!'()*]/g, (mark) => `%${mark.charCodeAt(0).toString(16).toUpperCase()}`);
}

/**
 * A shared access signature for a service's host: HMAC-SHA256 over host and expiry.
 * @param key base64
 */
export function sharedAccessSignature(host: string, policy: string, key: string, now = new Date()): string {
  const expiry = Math.floor(now.getTime() / 1000) + SECONDS;
  const mac = createHmac("sha256", Buffer.from(key, "base64"))
    .update(`${strict(host)}\n${expiry}`)
    .digest("base64");
  return `SharedAccessSignature sr=${strict(host)}&sig=${strict(mac)}&skn=${strict(policy)}&se=${expiry}`;
}

/** Reads a secret where it is used, so that a new one holds at once. @throws CountersignError `component-missing` */
export function readSecret(file: string): string {
  try {
    const text = readFileSync(file, "utf8").trim();
    if (text !== "" && text.length <= 16_384) return text;
  } catch (cause) {
    throw new CountersignError("component-missing", `can't read ${file}`, { cause });
  }
  throw new CountersignError("component-missing", `${file} holds no secret`);
}
