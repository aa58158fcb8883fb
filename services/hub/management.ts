import { Agent, request } from "node:https";
import { z } from "zod";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";

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

const problem = z.object({ code: z.string(), detail: z.string() });
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
function call(hub: HubAccess, method: string, path: string, body?: unknown): Promise<unknown> {
  const { ca, cert, key } = hub;
  const agent = new Agent({ ca, cert, key, keepAlive: false, maxCachedSessions: 0 });
  const unreachable = (cause: unknown): CountersignError =>
    new CountersignError(
      "component-unreachable",
      `the hub at ${hub.url} doesn't answer (${(cause as Error).message})`,
      {
        cause,
      },
    );
  return new Promise<unknown>((done, fail) => {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers = text === undefined ? {} : { "content-type": "application/json" };
    const sent = request(new URL(path, hub.url), { method, agent, headers }, (response) => {
      const parts: Uint8Array[] = [];
      let size = 0;
      response.on("data", (part: Uint8Array) => {
        size += part.length;
        if (size > MAX_ANSWER_BYTES) response.destroy(new Error("its answer is too long"));
        else parts.push(part);
      });
      response.on("error", (cause) => fail(unreachable(cause)));
      response.on("end", () => {
        try {
          const answer: unknown = JSON.parse(Buffer.concat(parts).toString("utf8"));
          const status = response.statusCode ?? 0;
          if (status >= 200 && status < 300) return done(answer);
          const { code, detail } = problem.parse(answer);
          if (status < 500 && Object.hasOwn(ERROR_KINDS, code))
            return fail(new CountersignError(code as ErrorCode, detail));
          fail(unreachable(new Error(`HTTP ${status}`)));
        } catch (cause) {
          fail(unreachable(cause));
        }
      });
    });
    sent.setTimeout(TIMEOUT_MS, () => sent.destroy(new Error("no answer in time")));
    sent.on("error", (cause) => fail(unreachable(cause)));
    sent.end(text);
  }).finally(() => agent.destroy());
}
