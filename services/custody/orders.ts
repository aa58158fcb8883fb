import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { Queryable } from "../../store/db.ts";
import { findOrder, storeOrder } from "../../store/orders.ts";
import type { LotRequest } from "./terms.ts";

/**
 * What an operator orders is kept in the site's own database before a workflow hears of it, and an activity signs only
 * what lies there: whoever reaches Temporal alone can start workflows, and gets no signature by them.
 */

export const orderLot = (q: Queryable, request: LotRequest): Promise<void> =>
  storeOrder(q, `lot/${request.id}`, request);

export const orderReceipt = (q: Queryable, handoff: string, discrepancies: readonly string[]): Promise<void> =>
  storeOrder(q, `receive/${handoff}`, discrepancies);

/** @throws CountersignError `unauthorized` */
export const assertLotOrdered = (q: Queryable, request: LotRequest): Promise<void> =>
  assertOrdered(q, `lot/${request.id}`, request);

/** @throws CountersignError `unauthorized` */
export const assertReceiptOrdered = (q: Queryable, handoff: string, discrepancies: readonly string[]): Promise<void> =>
  assertOrdered(q, `receive/${handoff}`, discrepancies);

async function assertOrdered(q: Queryable, name: string, request: unknown): Promise<void> {
  const ordered = await findOrder(q, name);
  if (ordered !== undefined && equalBytes(canonicalJson(ordered), canonicalJson(request))) return;
  throw new CountersignError("unauthorized", `no operator of this site ordered this: ${name}`);
}
