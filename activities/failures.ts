import { ApplicationFailure } from "@temporalio/common";
import { type CountersignError, errorCodeOf, isCountersignError } from "../lib/domain/errors.ts";

/**
 * A thrown error as Temporal keeps it: the type is our code. What a second try can't change (bad input, a refusal,
 * evidence that doesn't hold) isn't retried; what is out of reach, and our own faults, are.
 */
export function asFailure(error: unknown): ApplicationFailure {
  if (error instanceof ApplicationFailure) return error;
  const final = isCountersignError(error) && ["invalid", "refused", "unverified"].includes(error.kind);
  return ApplicationFailure.create({
    type: errorCodeOf(error),
    message: error instanceof Error ? error.message : String(error),
    nonRetryable: final,
    ...(waits(error) ? { nextRetryDelay: `${error.details["retryAfterSeconds"]} seconds` } : {}),
    ...(isCountersignError(error) ? { details: [error.details] } : {}),
    // A refusal says all there is to say; of a fault, the log needs the place where it happened.
    ...(error instanceof Error && !final ? { cause: error } : {}),
  });
}

/** Who throttles us says for how long it wants to be left alone. */
function waits(error: unknown): error is CountersignError & { details: { retryAfterSeconds: number } } {
  return isCountersignError(error) && typeof error.details["retryAfterSeconds"] === "number";
}

/** The same activities, each throwing {@link asFailure}. */
export function withFailures<T extends object>(activities: T): T {
  const wrapped: Record<string, unknown> = {};
  for (const [name, activity] of Object.entries(activities)) {
    wrapped[name] = async (...args: unknown[]) => {
      try {
        return await (activity as (...args: unknown[]) => Promise<unknown>)(...args);
      } catch (error) {
        throw asFailure(error);
      }
    };
  }
  return wrapped as T;
}
