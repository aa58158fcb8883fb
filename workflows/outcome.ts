import { ActivityFailure, ApplicationFailure } from "@temporalio/workflow";
import type { Outcome, Refused } from "../contracts/lots.ts";

/** A refusal as a value; anything else goes on failing. */
export async function outcome(work: () => Promise<unknown>): Promise<Outcome> {
  try {
    await work();
    return { ok: true };
  } catch (error) {
    const refused = refusalOf(error);
    if (refused === undefined) throw error;
    return { ok: false, error: refused };
  }
}

function refusalOf(error: unknown): Refused | undefined {
  const cause = error instanceof ActivityFailure ? error.cause : undefined;
  if (!(cause instanceof ApplicationFailure) || cause.nonRetryable !== true) return undefined;
  return { code: cause.type ?? "internal", message: cause.message };
}
