import { Agent, request } from "node:https";
import { z } from "zod";
import { ERROR_KINDS, type ErrorCode } from "../lib/domain/error-codes.ts";
import { CountersignError } from "../lib/domain/errors.ts";

export interface ExchangeRequest {
  readonly url: URL;
  readonly method: string;
  /** PEM: the one CA that the server's certificate is checked against, and this client's own certificate */
  readonly tls: { readonly ca: string; readonly cert?: string | undefined; readonly key?: string | undefined };
  readonly body?: { readonly bytes: string | Uint8Array; readonly type: string } | undefined;
  /** milliseconds without any byte before it is given up */
  readonly timeoutMs: number;
  readonly maxAnswerBytes: number;
  readonly signal?: AbortSignal | undefined;
}

export interface ExchangeAnswer {
  readonly status: number;
  readonly body: Uint8Array;
}

/**
 * One HTTPS request on a connection of its own, and its whole answer, whatever its status. Redirects aren't followed.
 * @throws Error what kept the answer from coming whole, in time and within its bound
 */
export function exchange(asked: ExchangeRequest): Promise<ExchangeAnswer> {
  const { url, method, tls, body, signal } = asked;
  const agent = new Agent({
    ca: tls.ca,
    ...(tls.cert === undefined ? {} : { cert: tls.cert, key: tls.key }),
    keepAlive: false,
    maxCachedSessions: 0,
    minVersion: "TLSv1.2",
  });
  return new Promise<ExchangeAnswer>((done, fail) => {
    const headers =
      body === undefined ? {} : { "content-type": body.type, "content-length": Buffer.byteLength(body.bytes) };
    const options = { method, agent, headers, ...(signal === undefined ? {} : { signal }) };
    const call = request(url, options, (response) => {
      const parts: Uint8Array[] = [];
      let size = 0;
      response.on("data", (part: Uint8Array) => {
        size += part.length;
        if (size > asked.maxAnswerBytes) response.destroy(new Error("its answer is too long"));
        else parts.push(part);
      });
      response.on("error", fail);
      response.on("end", () => done({ status: response.statusCode ?? 0, body: Buffer.concat(parts) }));
    });
    call.setTimeout(asked.timeoutMs, () => call.destroy(new Error("no answer in time")));
    call.on("error", fail);
    call.end(body?.bytes);
  }).finally(() => agent.destroy());
}

const problem = z.object({ code: z.string(), detail: z.string() });

/** The peer's own no, by its code. Undefined for a server's fault (5xx), and for what isn't Countersign's answer. */
export function refusalOf({ status, body }: ExchangeAnswer): CountersignError | undefined {
  if (status < 400 || status >= 500) return undefined;
  try {
    const { code, detail } = problem.parse(JSON.parse(Buffer.from(body).toString("utf8")));
    if (Object.hasOwn(ERROR_KINDS, code)) return new CountersignError(code as ErrorCode, detail.slice(0, 500));
  } catch {
    // Not a problem document: somebody else answered.
  }
  return undefined;
}
