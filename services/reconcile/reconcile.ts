import { unloggedCertificates } from "../../store/reconcile.ts";
import type { IssuingContext } from "../issuing/context.ts";
import type { ReconcileContext } from "./context.ts";
import { settleIntents, type Settled } from "./intents.ts";
import { checkSeen } from "./seen.ts";

const AT_ONCE = 1000;

export interface Reconciliation {
  readonly intents: Settled;
  /** leaf hashes of alarms that this run raised */
  readonly alarms: readonly string[];
}

/**
 * One round over this site's own database: intents left open are settled, and certificates in it that no ledger entry
 * stands behind raise their alarm. Safe beside itself.
 * @throws what the database or the act's signer throws
 */
export async function reconcile(
  context: ReconcileContext & IssuingContext,
  options: { readonly olderThanMs?: number } = {},
): Promise<Reconciliation> {
  const intents = await settleIntents(context, options.olderThanMs);
  const seen = await checkSeen(context, await unloggedCertificates(context.db, AT_ONCE));
  return { intents, alarms: seen.flatMap(({ alarm }) => (alarm?.first === true ? [alarm.leafHash] : [])) };
}
