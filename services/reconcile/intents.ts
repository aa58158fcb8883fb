import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { inTransaction } from "../../store/db.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import { getLot } from "../../store/lots.ts";
import { abandonIntent, openIntents, type OpenIntent, type Scope } from "../../store/reconcile.ts";
import { authorityGap, authorityOfKey, relint, type Authority } from "../issuing/authority.ts";
import { issueIntended } from "../issuing/certify.ts";
import type { IssuingContext } from "../issuing/context.ts";

/** Younger ones are in somebody's hands. Longer than an activity may take. */
export const SETTLE_AFTER_MS = 20 * 60_000;
const AT_ONCE = 256;

export interface Settled {
  /** devices whose stored bytes were signed now */
  readonly signed: string[];
  /** devices whose intent is given up for good */
  readonly abandoned: { device: string; reason: string }[];
  /** devices that can't be settled now, and why: tried again at the next run */
  readonly open: { device: string; reason: string }[];
}

/**
 * Settles intents that were left without a certificate: signed again under the same bytes while this site may still
 * sign them, given up with the reason when it may not. Safe beside issuing and beside itself: both store the first
 * certificate under the device's lock, and an intent given up is never signed.
 * @throws what the database throws; everything else is an intent's own reason
 */
export async function settleIntents(
  context: IssuingContext,
  scope: Scope,
  olderThanMs = SETTLE_AFTER_MS,
): Promise<Settled> {
  const settled: Settled = { signed: [], abandoned: [], open: [] };
  for (const intent of await openIntents(context.db, scope, olderThanMs, AT_ONCE)) {
    const { device, profile } = intent;
    try {
      const gap = await settle(context, intent);
      if (gap === undefined) settled.signed.push(device);
      else if (await inTransaction(context.db, (tx) => abandonIntent(tx, device, profile, gap.message))) {
        settled.abandoned.push({ device, reason: gap.message });
      }
    } catch (error) {
      // The HSM, the ledger or the database may be out of reach: nothing is decided by that.
      settled.open.push({ device, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  return settled;
}

/** Signs it, or gives the reason why it never may be. */
async function settle(context: IssuingContext, intent: OpenIntent): Promise<CountersignError | undefined> {
  const grant = await findCurrentGrant(context.db);
  if (grant === undefined) return new CountersignError("grant-missing", "this site holds no grant any more");
  const lot = await getLot(context.db, intent.lot);
  const now = (context.now ?? (() => new Date()))();
  const gap = authorityGap(grant.fields, lot, context.party, now);
  // A window that hasn't begun may begin; every other gap only widens.
  if (gap?.code === "grant-not-yet-valid") throw gap;
  if (gap !== undefined) return gap;
  let authority: Authority;
  try {
    authority = await authorityOfKey(context.db, intent.issuerKeyId, intent.profile, context.crlUrl);
    relint(authority, intent.tbs);
  } catch (error) {
    if (isCountersignError(error) && ["profile-violation", "grant-mismatch"].includes(error.code)) return error;
    throw error;
  }
  await issueIntended(context, authority, lot, [intent.device]);
  return undefined;
}
