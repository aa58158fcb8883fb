import { z } from "zod";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { exchange, refusalOf } from "../exchange.ts";

/** What a site asks of the hub's management API. */

export interface HubAccess {
  readonly url: string;
  /** PEM: the hub's infrastructure CA, and this site's operator certificate there */
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

const caEntry = z.object({
  name: z.string(),
  state: z.string(),
  sha256: z.string().nullable(),
  code: z.string().optional(),
});
export type HubCaEntry = z.infer<typeof caEntry>;

const TIMEOUT_MS = 30_000;
const MAX_ANSWER_BYTES = 256 * 1024;

/** Asks the hub for a verification code under this name; asked again, gives what is there. */
export async function offerCa(hub: HubAccess, name: string): Promise<HubCaEntry> {
  return caEntry.parse(await call(hub, "POST", "/api/v1/cas", { name }));
}

export async function readCa(hub: HubAccess, name: string): Promise<HubCaEntry> {
  return caEntry.parse(await call(hub, "GET", `/api/v1/cas/${encodeURIComponent(name)}`));
}

/** @param proof PEM certificates: the CA's, and the verification certificate whose CN is the hub's code */
export async function verifyCa(
  hub: HubAccess,
  name: string,
  proof: { ca: string; verification: string },
): Promise<HubCaEntry> {
  return caEntry.parse(await call(hub, "POST", `/api/v1/cas/${encodeURIComponent(name)}/verify`, proof));
}

/** @throws CountersignError the hub's own refusal by its code, `component-unreachable` for everything else */
async function call(hub: HubAccess, method: string, path: string, body?: unknown): Promise<unknown> {
  try {
    const answer = await exchange({
      url: new URL(path, hub.url),
      method,
      tls: hub,
      body: body === undefined ? undefined : { bytes: JSON.stringify(body), type: "application/json" },
      timeoutMs: TIMEOUT_MS,
      maxAnswerBytes: MAX_ANSWER_BYTES,
    });
    if (answer.status < 200 || answer.status >= 300) throw refusalOf(answer) ?? new Error(`HTTP ${answer.status}`);
    return JSON.parse(Buffer.from(answer.body).toString("utf8")) as unknown;
  } catch (cause) {
    if (isCountersignError(cause)) throw cause;
    const message = `the hub at ${hub.url} doesn't answer (${(cause as Error).message})`;
    throw new CountersignError("component-unreachable", message, { cause });
  }
}
