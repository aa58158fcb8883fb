import { Agent, request } from "node:https";
import { z } from "zod";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { Contact } from "../../lib/records/message.ts";
import { ENVELOPE_MEDIA_TYPE } from "./envelope.ts";

const TIMEOUT_MS = 60_000;
const MAX_ANSWER_BYTES = 64 * 1024;

const problem = z.object({ code: z.string(), detail: z.string() });

/**
 * Posts one envelope to a party's inbox. TLS is checked against that party's infrastructure CA alone; redirects aren't
 * followed. Resolves when the receiver has it durably.
 * @throws CountersignError the receiver's own refusal by its code, `component-unreachable` for everything else
 */
export function postEnvelope(contact: Contact, wire: Uint8Array, signal: AbortSignal): Promise<void> {
  const url = new URL("inbox", contact.gateway.replace(/\/?$/, "/"));
  const agent = new Agent({ ca: contact.tlsCa, keepAlive: false, maxCachedSessions: 0, minVersion: "TLSv1.2" });
  const unreachable = (cause: unknown): CountersignError =>
    new CountersignError(
      "component-unreachable",
      `the inbox of ${contact.party} at ${url.host} doesn't take envelopes (${(cause as Error).message})`,
      { cause },
    );
  return new Promise<void>((done, fail) => {
    const headers = { "content-type": ENVELOPE_MEDIA_TYPE, "content-length": wire.length };
    const call = request(url, { method: "POST", agent, headers, signal }, (response) => {
      const parts: Uint8Array[] = [];
      let size = 0;
      response.on("data", (part: Uint8Array) => {
        size += part.length;
        if (size > MAX_ANSWER_BYTES) response.destroy(new Error("its answer is too long"));
        else parts.push(part);
      });
      response.on("error", (cause) => fail(unreachable(cause)));
      response.on("end", () => {
        if (response.statusCode === 200) return done();
        fail(
          refusalOf(response.statusCode ?? 0, Buffer.concat(parts)) ??
            unreachable(new Error(`HTTP ${response.statusCode}`)),
        );
      });
    });
    call.setTimeout(TIMEOUT_MS, () => call.destroy(new Error("no answer in time")));
    call.on("error", (cause) => fail(unreachable(cause)));
    call.end(wire);
  }).finally(() => agent.destroy());
}

/** The receiver's own no. A server's fault (5xx) is none. */
function refusalOf(status: number, body: Uint8Array): CountersignError | undefined {
  if (status < 400 || status >= 500) return undefined;
  try {
    const { code, detail } = problem.parse(JSON.parse(Buffer.from(body).toString("utf8")));
    if (Object.hasOwn(ERROR_KINDS, code)) return new CountersignError(code as ErrorCode, detail.slice(0, 500));
  } catch {
    // Not a problem document: somebody else answered.
  }
  return undefined;
}
