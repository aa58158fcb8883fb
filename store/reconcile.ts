import type { Queryable, Tx } from "./db.ts";

/** What a crash or a thief may leave behind: intents without a certificate, certificates without a ledger entry. */

export interface OpenIntent {
  readonly device: string;
  readonly lot: string;
  readonly profile: string;
  readonly issuerKeyId: string;
  readonly tbs: Uint8Array;
}

/** Which rows of `issuance` to look at. A row's place is its (device, profile), in the primary key's order. */
export type Scope =
  { readonly since: Date } | { readonly after: IssuancePlace; readonly through: IssuancePlace | undefined };

export interface IssuancePlace {
  readonly device: string;
  readonly profile: string;
}

function within(scope: Scope): { condition: string; values: unknown[] } {
  if ("since" in scope) return { condition: "i.created >= $1", values: [scope.since] };
  const { after, through } = scope;
  const values = [after.device, after.profile];
  const begun = "(i.device, i.profile) > ($1, $2)";
  if (through === undefined) return { condition: begun, values };
  return {
    condition: `${begun} AND (i.device, i.profile) <= ($3, $4)`,
    values: [...values, through.device, through.profile],
  };
}

export interface Progress {
  /** what was created before it is settled */
  readonly settledBefore: Date;
  /** the last place of the slow pass */
  readonly place: IssuancePlace;
}

export async function readProgress(q: Queryable): Promise<Progress> {
  const { rows } = await q.query<{ settledBefore: Date; device: string; profile: string }>(
    `SELECT greatest(settled_before, 'epoch') AS "settledBefore", device, profile FROM reconcile_progress`,
  );
  const { settledBefore, ...place } = rows[0]!;
  return { settledBefore, place };
}

/** Only forward: of two rounds at once the further one counts. */
export async function storeSettledBefore(q: Queryable, settledBefore: Date): Promise<void> {
  await q.query("UPDATE reconcile_progress SET settled_before = greatest(settled_before, $1)", [settledBefore]);
}

export async function storePlace(q: Queryable, { device, profile }: IssuancePlace): Promise<void> {
  await q.query("UPDATE reconcile_progress SET device = $1, profile = $2", [device, profile]);
}

/** The place `count` rows further on; undefined when there aren't so many. */
export async function placeAhead(
  q: Queryable,
  after: IssuancePlace,
  count: number,
): Promise<IssuancePlace | undefined> {
  const { rows } = await q.query<IssuancePlace>(
    `SELECT device, profile FROM issuance_intent WHERE (device, profile) > ($1, $2)
     ORDER BY device, profile OFFSET $3 LIMIT 1`,
    [after.device, after.profile, count - 1],
  );
  return rows[0];
}

/**
 * Since when there are intents without a certificate that aren't given up, or what is so young that it may not be
 * committed yet: whichever is older.
 */
export async function unsettledSince(q: Queryable, since: Date, youngMs: number): Promise<Date> {
  const { rows } = await q.query<{ at: Date }>(
    `SELECT least(now() - make_interval(secs => $2), (
       SELECT min(created) FROM issuance WHERE created >= $1 AND certificate IS NULL AND abandoned IS NULL)) AS at`,
    [since, youngMs / 1000],
  );
  return rows[0]!.at;
}

/** Intents that nobody is working on: older than that, and the batch they came with is done or gone. */
export async function openIntents(
  q: Queryable,
  scope: Scope,
  olderThanMs: number,
  limit: number,
): Promise<OpenIntent[]> {
  const { condition, values } = within(scope);
  const n = values.length;
  const { rows } = await q.query<OpenIntent>(
    `SELECT i.device, i.lot, i.profile, i.issuer_key_id AS "issuerKeyId", i.tbs FROM issuance i
     WHERE ${condition} AND i.certificate IS NULL AND i.abandoned IS NULL
       AND i.created < now() - make_interval(secs => $${n + 1})
       AND NOT EXISTS (
         SELECT 1 FROM batch b WHERE b.state = 'pending' AND b.manifest_sha256 = i.intake_digest)
     ORDER BY i.created LIMIT $${n + 2}`,
    [...values, olderThanMs / 1000, limit],
  );
  return rows;
}

/**
 * Gives an intent up for good. False when it has its certificate by now. Takes the device's lock, as who stores a
 * certificate does: one of the two comes first, and the other sees it.
 */
export async function abandonIntent(tx: Tx, device: string, profile: string, reason: string): Promise<boolean> {
  await tx.query("SELECT 1 FROM device WHERE id = $1 FOR UPDATE", [device]);
  const { rowCount } = await tx.query(
    `UPDATE issuance_intent i SET abandoned = $3 WHERE device = $1 AND profile = $2
       AND NOT EXISTS (SELECT FROM issuance_certificate c WHERE c.device = i.device AND c.profile = i.profile)`,
    [device, profile, reason.slice(0, 500)],
  );
  return rowCount === 1;
}

/** Stored certificates (DER) whose record is neither in the tree nor on its way there. */
export async function unloggedCertificates(q: Queryable, scope: Scope, limit: number): Promise<Uint8Array[]> {
  const { condition, values } = within(scope);
  const { rows } = await q.query<{ certificate: Uint8Array }>(
    `SELECT c.certificate FROM issuance_intent i
       CROSS JOIN LATERAL (
         SELECT certificate, retry_key FROM issuance_certificate c
         WHERE c.device = i.device AND c.profile = i.profile LIMIT 1) c
     WHERE ${condition}
       AND NOT EXISTS (SELECT 1 FROM ledger_leaf l WHERE l.retry_key = c.retry_key)
       AND NOT EXISTS (SELECT 1 FROM ledger_pending p WHERE position(c.retry_key IN p.retry_keys) > 0)
     LIMIT $${values.length + 1}`,
    [...values, limit],
  );
  return rows.map((row) => row.certificate);
}

/** The `certified` entry that the ledger holds, or is about to, for a serial number of one of this site's CA keys. */
export async function certifiedEntry(
  q: Queryable,
  issuerKeyId: string,
  serial: string,
): Promise<Uint8Array | undefined> {
  const { rows } = await q.query<{ entry: Uint8Array }>(
    `SELECT a.entry FROM issuance_intent i JOIN issuance_certificate c USING (device, profile)
       JOIN ledger_act a USING (retry_key)
     WHERE i.issuer_key_id = $1 AND i.serial = $2 AND a.entry IS NOT NULL AND a.refused IS NULL`,
    [issuerKeyId, serial],
  );
  return rows[0]?.entry;
}

/** Did this site's CA or root key sign exactly this certificate for another CA, or for the hub? */
export async function isCaResult(q: Queryable, der: Uint8Array): Promise<boolean> {
  const { rowCount } = await q.query(
    `SELECT 1 FROM ca_intent WHERE result = $1
     UNION ALL SELECT 1 FROM ca_certificate WHERE certificate = $1 LIMIT 1`,
    [der],
  );
  return (rowCount ?? 0) > 0;
}

/** Certificates (DER) of the CA keys that this site has or had. */
export async function ownCaCertificates(q: Queryable): Promise<Uint8Array[]> {
  const { rows } = await q.query<{ certificate: Uint8Array }>(
    "SELECT certificate FROM ca_certificate UNION SELECT certificate FROM grant_received",
  );
  return rows.map((row) => row.certificate);
}
