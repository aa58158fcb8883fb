import { ActivityFailure, ApplicationFailure, type ActivityOptions } from "@temporalio/workflow";
import type { Refusal } from "../contracts/parties.ts";

/** Tries again until it works; a refusal (a non-retryable failure) ends it. */
export const patient: ActivityOptions = {
  startToCloseTimeout: "2 minutes",
  retry: { initialInterval: "200 ms", backoffCoefficient: 2, maximumInterval: "15 seconds" },
};

/**
 * What an activity refused, by its code.
 * @throws the error itself when it is no refusal (a cancellation, a fault of ours)
 */
export function refusalOf(error: unknown): Refusal {
  const cause = error instanceof ActivityFailure ? error.cause : error;
  if (cause instanceof ApplicationFailure && cause.nonRetryable === true) {
    return { code: cause.type ?? "internal", message: cause.message };
  }
  throw error;
}
