import type { Queryable } from "./db.ts";

/** What waits at a site, and how far its ledger has come: for its metrics. */
export interface SiteCounts {
  readonly ledgerSize: number;
  readonly checkpointSize: number;
  readonly pendingActs: number;
  readonly pendingBatches: readonly { readonly kind: string; readonly count: number }[];
  readonly outboxQueued: number;
  readonly inboxUnapplied: number;
}

/** Costs by what waits, not by what there is. */
export async function siteCounts(q: Queryable): Promise<SiteCounts> {
  const { rows } = await q.query<Omit<SiteCounts, "pendingBatches">>(
    `SELECT coalesce((SELECT size FROM ledger_head), 0) AS "ledgerSize",
       coalesce((SELECT max(size) FROM ledger_checkpoint), 0) AS "checkpointSize",
       (SELECT coalesce(sum(octet_length(retry_keys)) / 32, 0) FROM ledger_pending) AS "pendingActs",
       (SELECT count(*) FROM outbox WHERE state = 'queued') AS "outboxQueued",
       (SELECT count(*) FROM inbox WHERE applied IS NULL) AS "inboxUnapplied"`,
  );
  const batches = await q.query<{ kind: string; count: number }>(
    `SELECT k.kind, (SELECT count(*) FROM batch b WHERE b.state = 'pending' AND b.kind = k.kind) AS count
     FROM unnest(ARRAY['built', 'certify', 'install']) AS k (kind)`,
  );
  return { ...rows[0]!, pendingBatches: batches.rows };
}
