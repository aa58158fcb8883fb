import type { Queryable } from "./db.ts";

/** How many signatures a CA key was asked for, beside what its token counts. Keys by their SPKI's SHA-256, hex. */

/** Durable when it resolves: before the token is asked. */
export async function noteSignatures(q: Queryable, keyId: string, count: number): Promise<void> {
  if (count === 0) return;
  await q.query(
    `INSERT INTO signature_account (key_id, noted) VALUES ($1, $2)
     ON CONFLICT (key_id) DO UPDATE SET noted = signature_account.noted + excluded.noted`,
    [keyId, count],
  );
}

export interface SignatureAccount {
  /** one for each device's intent, and what was noted */
  readonly accounted: number;
  /** intents that have no certificate, and may be signed at any moment */
  readonly open: number;
}

/** Of these keys together. */
export async function readAccount(q: Queryable, keyIds: readonly string[]): Promise<SignatureAccount> {
  const { rows } = await q.query<SignatureAccount>(
    `SELECT (SELECT count(*) FROM issuance_intent WHERE issuer_key_id = ANY($1))
         + coalesce((SELECT sum(noted)::bigint FROM signature_account WHERE key_id = ANY($1)), 0) AS accounted,
       (SELECT count(*) FROM issuance
         WHERE created >= (SELECT settled_before FROM reconcile_progress) AND issuer_key_id = ANY($1)
           AND certificate IS NULL AND abandoned IS NULL) AS open`,
    [keyIds],
  );
  return rows[0]!;
}

/** Every key that was ever noted for: a CA's new one before it signs its own request. */
export async function notedKeys(q: Queryable): Promise<string[]> {
  const { rows } = await q.query<{ keyId: string }>('SELECT key_id AS "keyId" FROM signature_account');
  return rows.map(({ keyId }) => keyId);
}

export interface Baseline {
  readonly counted: number;
  readonly accounted: number;
  /** what both were at the last look, and when that was first seen */
  readonly seenCounted: number;
  readonly seenAccounted: number;
  readonly seenAt: Date;
}

export async function readBaseline(q: Queryable, keyId: string): Promise<Baseline | undefined> {
  const { rows } = await q.query<Baseline>(
    `SELECT counted, accounted, seen_counted AS "seenCounted", seen_accounted AS "seenAccounted", seen_at AS "seenAt"
     FROM signature_baseline WHERE key_id = $1`,
    [keyId],
  );
  return rows[0];
}

export async function storeBaseline(q: Queryable, keyId: string, baseline: Baseline): Promise<void> {
  const { counted, accounted, seenCounted, seenAccounted, seenAt } = baseline;
  await q.query(
    `INSERT INTO signature_baseline (key_id, counted, accounted, seen_counted, seen_accounted, seen_at)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (key_id) DO UPDATE SET counted = excluded.counted,
       accounted = excluded.accounted, seen_counted = excluded.seen_counted, seen_accounted = excluded.seen_accounted,
       seen_at = excluded.seen_at`,
    [keyId, counted, accounted, seenCounted, seenAccounted, seenAt],
  );
}

/** After the database was set back: what its account lacks says nothing of the token's count. */
export async function forgetBaselines(q: Queryable): Promise<void> {
  await q.query("DELETE FROM signature_baseline");
}
