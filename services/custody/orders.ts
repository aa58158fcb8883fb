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
export async function assertLotOrdered(q: Queryable, request: LotRequest): Promise<void> {
  const name = `lot/${request.id}`;
  if (!equalBytes(canonicalJson(await ordered(q, name)), canonicalJson(request))) throw unordered(name);
}

/**
 * What the operator says of a handoff that arrived. It is free text: Temporal's histories don't get it.
 * @throws CountersignError `unauthorized`
 */
export const orderedReceipt = async (q: Queryable, handoff: string): Promise<string[]> =>
  (await ordered(q, `receive/${handoff}`)) as string[];

async function ordered(q: Queryable, name: string): Promise<unknown> {
  const found = await findOrder(q, name);
  if (found === undefined) throw unordered(name);
  return found;
}

function unordered(name: string): CountersignError {
  return new CountersignError("unauthorized", `no operator of this site ordered this: ${name}`);
}
