import type { Queryable } from "./db.ts";

/** Codes that wait for an offline CA's key, by hub, name and place. */

export interface HubOffer {
  readonly place: string;
  readonly code: string;
}

export async function listHubOffers(q: Queryable, hub: string, name: string): Promise<HubOffer[]> {
  const sql = "SELECT place, code FROM hub_offer WHERE hub = $1 AND name = $2 ORDER BY place";
  return (await q.query<HubOffer>(sql, [hub, name])).rows;
}

/** @param code undefined: nothing is waited for there any more */
export async function setHubOffer(
  q: Queryable,
  hub: string,
  name: string,
  { place, code }: { place: string; code: string | undefined },
): Promise<void> {
  if (code === undefined) {
    await q.query("DELETE FROM hub_offer WHERE hub = $1 AND name = $2 AND place = $3", [hub, name, place]);
    return;
  }
  await q.query(
    `INSERT INTO hub_offer (hub, name, place, code) VALUES ($1, $2, $3, $4)
     ON CONFLICT (hub, name, place) DO UPDATE SET code = excluded.code, given = now()`,
    [hub, name, place, code],
  );
}
