import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import type { Contact } from "../../lib/records/message.ts";
import { exchange, refusalOf } from "../exchange.ts";
import { ENVELOPE_MEDIA_TYPE } from "./envelope.ts";

const TIMEOUT_MS = 60_000;
const MAX_ANSWER_BYTES = 64 * 1024;

/**
 * Posts one envelope to a party's inbox. TLS is checked against that party's infrastructure CA alone; redirects aren't
 * followed. Resolves when the receiver has it durably.
 * @throws CountersignError the receiver's own refusal by its code, `component-unreachable` for everything else
 */
export async function postEnvelope(contact: Contact, wire: Uint8Array, signal: AbortSignal): Promise<void> {
  const url = new URL("inbox", contact.gateway.replace(/\/?$/, "/"));
  try {
    const answer = await exchange({
      url,
      method: "POST",
      tls: { ca: contact.tlsCa },
      body: { bytes: wire, type: ENVELOPE_MEDIA_TYPE },
      timeoutMs: TIMEOUT_MS,
      maxAnswerBytes: MAX_ANSWER_BYTES,
      signal,
    });
    if (answer.status !== 200) throw refusalOf(answer) ?? new Error(`HTTP ${answer.status}`);
  } catch (cause) {
    if (isCountersignError(cause)) throw cause;
    const message = `the inbox of ${contact.party} at ${url.host} doesn't take envelopes (${(cause as Error).message})`;
    throw new CountersignError("component-unreachable", message, { cause });
  }
}
