import { isCountersignError } from "../../lib/domain/errors.ts";
import type { Db } from "../../store/db.ts";
import {
  type IssuancePlace,
  placeAhead,
  readProgress,
  type Scope,
  storePlace,
  storeSettledBefore,
  unloggedCertificates,
  unsettledSince,
} from "../../store/reconcile.ts";
import type { IssuingContext } from "../issuing/context.ts";
import type { ReconcileContext } from "./context.ts";
import { settleIntents, type Settled } from "./intents.ts";
import { checkSeen } from "./seen.ts";

/** Rows of the slow pass a round: 100,000 are passed in half a day of rounds every ten minutes. */
const SLICE = 2_000;
/** No transaction that writes intents is open for so long. */
const YOUNG_MS = 5 * 60_000;
const START: IssuancePlace = { device: "", profile: "" };

export interface Reconciliation {
  readonly intents: Settled;
  /** leaf hashes of alarms that this run raised */
  readonly alarms: readonly string[];
}

export interface ReconcileOptions {
  readonly olderThanMs?: number;
  /** look at every row, not only at new ones and a slice of the others */
  readonly everything?: boolean;
}

/**
 * One round over this site's own database: intents left open are settled, and certificates in it that no ledger entry
 * stands behind raise their alarm. What is new since the last round is looked at, and a slice of the rest: so a row that
 * somebody changed afterwards is found too, later. Safe beside itself.
 * @throws what the database or the act's signer throws; at the end, CountersignError `certificate-invalid` or `der-invalid`
 *   when a stored certificate can't be read
 */
export async function reconcile(
  context: ReconcileContext & IssuingContext,
  { olderThanMs, everything }: ReconcileOptions = {},
): Promise<Reconciliation> {
  const found: Found = { unreadable: [], intents: { signed: [], abandoned: [], open: [] }, alarms: [] };
  const look = (scope: Scope): Promise<void> => lookAt(context, scope, olderThanMs, found);
  const { settledBefore, place } = await readProgress(context.db);

  await look({ since: settledBefore });
  await storeSettledBefore(context.db, await unsettledSince(context.db, settledBefore, YOUNG_MS));

  if (everything === true) {
    let at: IssuancePlace | undefined = START;
    while (at !== undefined) at = await slice(context.db, at, look);
  } else {
    await storePlace(context.db, (await slice(context.db, place, look)) ?? START);
  }
  if (found.unreadable.length > 0) throw found.unreadable[0];
  return { intents: found.intents, alarms: found.alarms };
}

interface Found {
  /** over stored certificates that are none: told once all the others were looked at */
  readonly unreadable: unknown[];
  readonly intents: Settled;
  readonly alarms: string[];
}

/** Looks at the next rows after `after`, and gives the last one's place; undefined at the end. */
async function slice(
  db: Db,
  after: IssuancePlace,
  look: (scope: Scope) => Promise<void>,
): Promise<IssuancePlace | undefined> {
  const through = await placeAhead(db, after, SLICE);
  await look({ after, through });
  return through;
}

async function lookAt(
  context: ReconcileContext & IssuingContext,
  scope: Scope,
  olderThanMs: number | undefined,
  found: Found,
): Promise<void> {
  const { signed, abandoned, open } = await settleIntents(context, scope, olderThanMs);
  found.intents.signed.push(...signed);
  found.intents.abandoned.push(...abandoned);
  const known = new Set(found.intents.open.map(({ device }) => device));
  found.intents.open.push(...open.filter(({ device }) => !known.has(device)));
  for (const certificate of await unloggedCertificates(context.db, scope, SLICE)) {
    try {
      const [seen] = await checkSeen(context, [certificate]);
      if (seen?.alarm?.first === true) found.alarms.push(seen.alarm.leafHash);
    } catch (error) {
      // Who changes one row mustn't keep the others from being looked at.
      if (!isCountersignError(error) || error.kind !== "invalid") throw error;
      found.unreadable.push(error);
    }
  }
}
