import type { IncomingHttpHeaders } from "node:http";
import { Agent, request } from "node:https";
import { z } from "zod";
import { ERROR_KINDS, type ErrorCode } from "../lib/domain/error-codes.ts";
import { CountersignError } from "../lib/domain/errors.ts";

/** How the server is reached: PEM for a connection of its own, or an agent that keeps its connections. */
export type ExchangeRoute =
  | {
      /** the one CA that the server's certificate is checked against, and this client's own certificate */
      readonly tls: { readonly ca: string; readonly cert?: string | undefined; readonly key?: string | undefined };
    }
  | { readonly agent: Agent };

export type ExchangeRequest = ExchangeRoute & {
  readonly url: URL;
  readonly method: string;
  /** besides those of the body */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly body?: { readonly bytes: string | Uint8Array; readonly type: string } | undefined;
  /** milliseconds without any byte before it is given up */
  readonly timeoutMs: number;
  readonly maxAnswerBytes: number;
  readonly signal?: AbortSignal | undefined;
};

export interface ExchangeAnswer {
  readonly status: number;
  /** names in lower case */
  readonly headers: Readonly<IncomingHttpHeaders>;
  readonly body: Uint8Array;
}

/**
 * One HTTPS request and its whole answer, whatever its status. Redirects aren't followed.
 * @throws Error what kept the answer from coming whole, in time and within its bound
 */
export async function exchange(asked: ExchangeRequest): Promise<ExchangeAnswer> {
  if ("agent" in asked) return send(asked, asked.agent);
  const { ca, cert, key } = asked.tls;
  const agent = new Agent({
    ca,
    ...(cert === undefined ? {} : { cert, key }),
    keepAlive: false,
    maxCachedSessions: 0,
    minVersion: "TLSv1.2",
  });
  try {
    return await send(asked, agent);
  } finally {
    agent.destroy();
  }
}

function send(asked: ExchangeRequest, agent: Agent): Promise<ExchangeAnswer> {
  const { url, method, body, signal } = asked;
  return new Promise<ExchangeAnswer>((done, fail) => {
    const ofBody =
      body === undefined ? {} : { "content-type": body.type, "content-length": Buffer.byteLength(body.bytes) };
    const headers = { ...asked.headers, ...ofBody };
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
      response.on("end", () =>
        done({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) }),
      );
    });
    call.setTimeout(asked.timeoutMs, () => call.destroy(new Error("no answer in time")));
    call.on("error", fail);
    call.end(body?.bytes);
  });
}

const problem = z.object({
  code: z.string(),
  detail: z.string(),
  details: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional(),
});

/** The peer's own no, by its code. Undefined for a server's fault (5xx), and for what isn't Countersign's answer. */
export function refusalOf(answer: ExchangeAnswer): CountersignError | undefined {
  return answer.status >= 400 && answer.status < 500 ? problemOf(answer) : undefined;
}

/** The error that a problem document of Countersign's tells of, a server's fault too. */
export function problemOf({ body }: ExchangeAnswer): CountersignError | undefined {
  try {
    const { code, detail, details } = problem.parse(JSON.parse(Buffer.from(body).toString("utf8")));
    if (!Object.hasOwn(ERROR_KINDS, code)) return undefined;
    return new CountersignError(code as ErrorCode, detail.slice(0, 2000), details === undefined ? {} : { details });
  } catch {
    // Not a problem document: somebody else answered.
    return undefined;
  }
}
