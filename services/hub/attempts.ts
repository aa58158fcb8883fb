import { errorCodeOf, isCountersignError } from "../../lib/domain/errors.ts";

/** One that is refused doesn't keep the others from being done; one that is out of reach is out of reach for all. */
export async function eachOf(steps: readonly (() => Promise<unknown>)[], refusals: unknown[]): Promise<void> {
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      if (!isCountersignError(error) || error.kind !== "refused") throw error;
      refusals.push(error);
    }
  }
}

/** Where an operator has removed it meanwhile there is nothing to give back. */
export async function present(enabled: Promise<unknown>): Promise<void> {
  try {
    await enabled;
  } catch (error) {
    if (errorCodeOf(error) !== "not-found") throw error;
  }
}
