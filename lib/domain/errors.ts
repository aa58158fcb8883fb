import { ERROR_KINDS, type ErrorCode, type ErrorKind } from "./error-codes.ts";

/** The one error of the program. `code` is stable and meant for scripts; the message says what, where and what to do. */
export class CountersignError extends Error {
  override readonly name = "CountersignError";
  readonly code: ErrorCode;
  /** Small, safe-to-print facts (ids, limits, offsets). Never secrets, never whole inputs. */
  readonly details: Readonly<Record<string, string | number | boolean>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; details?: Record<string, string | number | boolean> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
  }

  get kind(): ErrorKind {
    return ERROR_KINDS[this.code];
  }
}

export function isCountersignError(error: unknown): error is CountersignError {
  return error instanceof CountersignError;
}

/** The code of any thrown value; anything that isn't ours is `internal`. */
export function errorCodeOf(error: unknown): ErrorCode {
  return isCountersignError(error) ? error.code : "internal";
}

/** What a command exits with: 1 the answer is no, 2 misuse or bad input, 3 a component is missing or unreachable. */
export function exitCodeOf(error: unknown): 1 | 2 | 3 {
  if (!isCountersignError(error)) return 3;
  return { refused: 1, unverified: 1, invalid: 2, unavailable: 3, internal: 3 }[error.kind] as 1 | 2 | 3;
}
