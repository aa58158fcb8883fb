import { Agent } from "node:https";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { exchange, type ExchangeAnswer } from "../../exchange.ts";

/** One service's REST interface: bounded, without redirects, its authorization sent to its own address and no other. */

export interface RestRequest {
  readonly method: "GET" | "PUT" | "POST" | "DELETE";
  /** percent-encoded, without the query */
  readonly path: string;
  readonly ifMatch?: string | undefined;
  readonly body?: unknown;
}

export interface RestAnswer {
  readonly status: number;
  /** parsed JSON; undefined for an empty body */
  readonly body: unknown;
  readonly etag?: string | undefined;
}

/** @throws CountersignError those of {@link RestClient.call} */
export type Rest = (request: RestRequest) => Promise<RestAnswer>;

export interface RestService {
  /** for people: `Azure Resource Manager` */
  readonly name: string;
  /** https://HOST[:PORT] */
  readonly url: string;
  readonly apiVersion: string;
  /** the Authorization header's value */
  readonly authorization: () => Promise<string>;
}

const IDLE_MS = 20_000;
const TOTAL_MS = 60_000;
export const MAX_ANSWER_BYTES = 1 << 20;
/** What a server may make us wait; it may say more. */
const MAX_RETRY_SECONDS = 300;

/** The services' certificates are checked against `ca` alone, or against the public CAs that Node knows. */
export function azureAgent(ca: string | undefined): Agent {
  return new Agent({
    ...(ca === undefined ? {} : { ca }),
    keepAlive: false,
    maxCachedSessions: 0,
    minVersion: "TLSv1.2",
  });
}

/**
 * Gives the answers 200-299, 404, 409 and 412, which the caller decides on.
 * @throws CountersignError `hub-busy` (429, with `details.retryAfterSeconds` where the server says so), `unauthorized`
 *   (401, 403), `component-unreachable` (5xx, no whole answer in time, an answer that can't be read: whether the request
 *   was carried out isn't known), `hub-refused` (everything else, redirects among it)
 */
export function restClient(service: RestService, agent: Agent): Rest {
  return async ({ method, path, ifMatch, body }) => {
    const where = `${service.name}: ${method} ${path}`;
    const authorization = await service.authorization();
    let answer: ExchangeAnswer;
    try {
      answer = await exchange({
        url: new URL(`${path}?api-version=${service.apiVersion}`, service.url),
        method,
        agent,
        headers: {
          accept: "application/json",
          authorization,
          ...(ifMatch === undefined ? {} : { "if-match": ifMatch }),
          // Without a body some front ends want to hear that there is none.
          ...(body === undefined && method === "POST" ? { "content-length": "0" } : {}),
        },
        body: body === undefined ? undefined : { bytes: JSON.stringify(body), type: "application/json; charset=utf-8" },
        timeoutMs: IDLE_MS,
        maxAnswerBytes: MAX_ANSWER_BYTES,
        signal: AbortSignal.timeout(TOTAL_MS),
      });
    } catch (cause) {
      throw unreachable(where, (cause as Error).message, cause);
    }
    return read(where, answer);
  };
}

const DECIDED_BY_CALLER = [404, 409, 412];

function read(where: string, answer: ExchangeAnswer): RestAnswer {
  const { status, headers } = answer;
  const told = `${where} answered ${status}${saidOf(answer)}`;
  if (status === 429) {
    const seconds = retryAfter(headers["retry-after"]);
    throw new CountersignError(
      "hub-busy",
      told,
      seconds === undefined ? {} : { details: { retryAfterSeconds: seconds } },
    );
  }
  if (status >= 500) throw unreachable(where, `${status}${saidOf(answer)}`);
  if (status === 401 || status === 403) {
    throw new CountersignError("unauthorized", `${told}: look at the principal's role, or at the policy's key`);
  }
  if ((status < 200 || status >= 300) && !DECIDED_BY_CALLER.includes(status)) {
    throw new CountersignError("hub-refused", told);
  }
  const etag = headers.etag;
  return { status, body: status < 300 ? json(where, answer.body) : undefined, ...(etag === undefined ? {} : { etag }) };
}

function json(where: string, body: Uint8Array): unknown {
  if (body.length === 0) return undefined;
  try {
    return JSON.parse(Buffer.from(body).toString("utf8")) as unknown;
  } catch (cause) {
    throw unreachable(where, "its answer isn't JSON", cause);
  }
}

/** What the server gives as its reason: shown, never decided by. */
function saidOf({ body }: ExchangeAnswer): string {
  const text = Buffer.from(body.subarray(0, 2000)).toString("utf8");
  try {
    const parsed = JSON.parse(text) as { error?: { code?: unknown; message?: unknown }; message?: unknown };
    const said = parsed.error?.message ?? parsed.error?.code ?? parsed.message;
    // oxlint-disable-next-line no-control-regex -- a terminal must not be told what to do by a server
    if (typeof said === "string") return ` (${said.slice(0, 300).replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, " ")})`;
  } catch {
    // Not JSON: the status says enough.
  }
  return "";
}

/** Seconds, or an HTTP date (RFC 9110, 10.2.3). */
function retryAfter(value: string | undefined, now = Date.now()): number | undefined {
  if (value === undefined) return undefined;
  const seconds = /^\d{1,9}$/.test(value) ? Number(value) : (Date.parse(value) - now) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(Math.ceil(seconds), 0), MAX_RETRY_SECONDS) : undefined;
}

export function unreachable(where: string, why: string, cause?: unknown): CountersignError {
  return new CountersignError("component-unreachable", `${where}: ${why}`, { cause });
}
