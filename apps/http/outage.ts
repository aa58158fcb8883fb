/**
 * Errors that say that a server of ours (Postgres, Temporal) is out of reach or restarting, by what their clients give:
 * errno codes, SQLSTATEs of class 08 and 57P0x, gRPC UNAVAILABLE and DEADLINE_EXCEEDED, and what `pg` says without a code.
 */

const CODES = new Set(["ECONNREFUSED", "ECONNRESET", "EPIPE", "ETIMEDOUT", "57P01", "57P02", "57P03", "53300"]);
const SQLSTATE_CONNECTION = /^08[0-9A-Z]{3}$/;
const GRPC = new Set<unknown>([4, 14]);
const WORDS =
  /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error|Query read timeout)/;
const DEEPEST_CAUSE = 5;

export function isOutage(error: unknown): boolean {
  let at = error;
  for (let depth = 0; at instanceof Error && depth < DEEPEST_CAUSE; depth++, at = at.cause) {
    const { code } = at as { code?: unknown };
    if (typeof code === "string" && (CODES.has(code) || SQLSTATE_CONNECTION.test(code))) return true;
    if (GRPC.has(code) || WORDS.test(at.message)) return true;
  }
  return false;
}
