import { WorkflowUpdateRPCTimeoutOrCancelledError, type WorkflowClient } from "@temporalio/client";
import type { Outcome } from "../../contracts/lots.ts";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";

/**
 * Waits for a workflow's answer to an Update, for so long. Without an end to it, a site whose worker is down would hold
 * its client's request for good; what was asked for may still be done later.
 * @throws CountersignError the workflow's refusal; `timeout`, naming `what`
 */
export async function updated(
  workflows: WorkflowClient,
  what: string,
  update: () => Promise<Outcome>,
  timeoutMs: number,
): Promise<void> {
  let outcome: Outcome;
  try {
    outcome = await workflows.withDeadline(Date.now() + timeoutMs, update);
  } catch (cause) {
    if (!(cause instanceof WorkflowUpdateRPCTimeoutOrCancelledError)) throw cause;
    const message = `${what} isn't done after ${Math.ceil(timeoutMs / 1000)} seconds: look at its state, and ask again`;
    throw new CountersignError("timeout", message, { cause });
  }
  if (outcome.ok) return;
  const { code, message } = outcome.error;
  throw new CountersignError(Object.hasOwn(ERROR_KINDS, code) ? (code as ErrorCode) : "internal", message);
}
