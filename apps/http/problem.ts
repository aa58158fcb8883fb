import type { FastifyError, FastifyReply } from "fastify";
import type { ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { isOutage } from "./outage.ts";

/** RFC 9457 problem document; `code` is the stable error code that scripts switch on. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  code: ErrorCode;
  detail: string;
  details?: Readonly<Record<string, string | number | boolean>>;
}

const STATUS_OF_KIND = { invalid: 400, refused: 403, unverified: 422, unavailable: 503, internal: 500 } as const;

/** Where a code says more than its kind: what isn't there, what clashes with what is, who isn't known. */
const STATUS_OF_CODE: Partial<Record<ErrorCode, number>> = {
  "input-too-large": 413,
  "not-found": 404,
  "lot-not-found": 404,
  unauthorized: 401,
  "already-exists": 409,
  "state-conflict": 409,
  "act-conflict": 409,
  "custody-conflict": 409,
  "device-id-other-key": 409,
  "key-other-device-id": 409,
  "envelope-replayed": 409,
  "envelope-out-of-order": 409,
  "lot-not-open": 409,
  "invitation-spent": 409,
  "hub-device-offline": 409,
  "queue-full": 429,
};

const TITLE_OF_KIND = {
  invalid: "The request is malformed",
  refused: "Refused",
  unverified: "Not verified",
  unavailable: "A component is not available",
  internal: "Internal error",
} as const;

/** Anything thrown as the program's one error: Fastify's own refusals keep their meaning, the rest is `internal`. */
export function asCountersignError(error: unknown): CountersignError {
  if (isCountersignError(error)) return error;
  const status = (error as Partial<FastifyError> | null)?.statusCode;
  if (status !== undefined && status >= 400 && status < 500) {
    const message = error instanceof Error ? error.message : "the request was refused";
    return new CountersignError(status === 413 ? "input-too-large" : "input-invalid", message, { cause: error });
  }
  if (status === 503) return new CountersignError("timeout", "the request took too long; try again", { cause: error });
  if (isOutage(error)) {
    return new CountersignError("component-unreachable", "a component of this site is out of reach; try again", {
      cause: error,
    });
  }
  return new CountersignError("internal", "internal error; the server's log has the details", { cause: error });
}

export function problemOf(error: unknown): Problem {
  const typed = asCountersignError(error);
  const status = STATUS_OF_CODE[typed.code] ?? STATUS_OF_KIND[typed.kind];
  const problem: Problem = {
    type: `urn:countersign:problem:${typed.code}`,
    title: TITLE_OF_KIND[typed.kind],
    status,
    code: typed.code,
    // An internal error's own words may hold what the caller must not see.
    detail: typed.kind === "internal" ? "internal error; the server's log has the details" : typed.message,
  };
  if (typed.kind !== "internal" && Object.keys(typed.details).length > 0) problem.details = typed.details;
  return problem;
}

/** Answers with the problem document of anything thrown, and with `Retry-After` where its details say when (RFC 9110). */
export function sendProblem(reply: FastifyReply, error: unknown): FastifyReply {
  const problem = problemOf(error);
  const seconds = problem.details?.["retryAfterSeconds"];
  if (typeof seconds === "number") reply.header("retry-after", Math.ceil(seconds));
  return reply.code(problem.status).type("application/problem+json; charset=utf-8").send(JSON.stringify(problem));
}
