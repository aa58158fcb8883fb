import type { Queryable } from "./db.ts";
import type { RevocationEffect, RevocationTarget } from "./revocations.ts";

/** What hubs that follow no CRL know of this site's revocations, and what is kept out there. */

/** Notified when steps were recorded. */
export const REVOCATION_CHANNEL = "revocation_recorded";

export async function announceRevocations(q: Queryable): Promise<void> {
  await q.query("SELECT pg_notify($1, '')", [REVOCATION_CHANNEL]);
}

export interface UntoldSubject {
  readonly target: RevocationTarget;
  readonly subject: string;
  /** recorded ones that the hub hasn't been told */
  readonly steps: readonly number[];
}

/**
 * Those that were never tried first, then those whose last try is longest ago.
 * @param refusedBefore what the hub has said no to since then is left out
 */
export async function untoldSubjects(
  q: Queryable,
  hub: string,
  refusedBefore: Date,
  limit: number,
): Promise<UntoldSubject[]> {
  const { rows } = await q.query<{ target: RevocationTarget; subject: string; steps: string[] }>(
    `SELECT r.target, r.subject, array_agg(r.id::text ORDER BY r.id) AS steps
     FROM revocation r LEFT JOIN hub_told t ON t.hub = $1 AND t.revocation = r.id
     WHERE r.act_leaf IS NOT NULL AND t.told IS NULL AND (t.refused IS NOT TRUE OR t.tried < $2)
     GROUP BY r.target, r.subject ORDER BY min(t.tried) NULLS FIRST, min(r.id) LIMIT $3`,
    [hub, refusedBefore, limit],
  );
  return rows.map(({ steps, ...row }) => ({ ...row, steps: steps.map(Number) }));
}

/** Of these hubs, those that haven't been told everything. */
export async function hubsBehind(q: Queryable, hubs: readonly string[]): Promise<string[]> {
  const { rows } = await q.query<{ hub: string }>(
    `SELECT hub FROM unnest($1::text[]) AS hub WHERE EXISTS (
       SELECT FROM revocation r WHERE r.act_leaf IS NOT NULL AND NOT EXISTS (
         SELECT FROM hub_told t WHERE t.hub = hub.hub AND t.revocation = r.id AND t.told IS NOT NULL))`,
    [hubs],
  );
  return rows.map(({ hub }) => hub);
}

/** @param error why the hub doesn't have it; without one, it has */
export async function noteTold(
  q: Queryable,
  hub: string,
  steps: readonly number[],
  error?: { code: string; message: string; refused: boolean },
): Promise<void> {
  await q.query(
    `INSERT INTO hub_told (hub, revocation, told, error_code, error_message, refused)
     SELECT $1, id, CASE WHEN $3::text IS NULL THEN now() END, $3, $4, $5 FROM unnest($2::bigint[]) AS id
     ON CONFLICT (hub, revocation) DO UPDATE SET tried = now(), told = coalesce(hub_told.told, excluded.told),
       error_code = excluded.error_code, error_message = excluded.error_message,
       refused = excluded.refused`,
    [hub, steps, error?.code ?? null, error?.message.slice(0, 1000) ?? null, error?.refused ?? false],
  );
}

export interface HubTold {
  readonly hub: string;
  readonly told: Date | null;
  readonly errorCode: string | null;
  readonly errorMessage: string | null;
}

/** By step: each hub that was tried, and what became of it. */
export async function toldOf(q: Queryable, steps: readonly number[]): Promise<Map<number, HubTold[]>> {
  const { rows } = await q.query<HubTold & { step: number }>(
    `SELECT revocation AS step, hub, told, error_code AS "errorCode", error_message AS "errorMessage"
     FROM hub_told WHERE revocation = ANY($1) ORDER BY hub`,
    [steps],
  );
  return Map.groupBy(rows, ({ step }) => step);
}

/** The last recorded step of each of its certificates, oldest certificate first. */
export async function standingOf(
  q: Queryable,
  target: RevocationTarget,
  subject: string,
): Promise<{ certificate: Uint8Array; effect: RevocationEffect }[]> {
  const { rows } = await q.query<{ certificate: Uint8Array; effect: RevocationEffect }>(
    `SELECT certificate, effect FROM (
       SELECT DISTINCT ON (certificate_leaf) id, certificate, effect FROM revocation
       WHERE target = $1 AND subject = $2 AND act_leaf IS NOT NULL ORDER BY certificate_leaf, step DESC) s ORDER BY id`,
    [target, subject],
  );
  return rows;
}

export type BlockKind = "device" | "enrollment" | "group";
export type Found = "enabled" | "disabled" | "absent";

export interface Block {
  readonly found: Found;
  /** the child for whose sake a device is kept out as well */
  readonly child: string | null;
}

export async function findBlock(q: Queryable, hub: string, kind: BlockKind, name: string): Promise<Block | undefined> {
  const sql = "SELECT found, child FROM hub_block WHERE hub = $1 AND kind = $2 AND name = $3";
  return (await q.query<Block>(sql, [hub, kind, name])).rows[0];
}

/** What was noted first stays. */
export async function addBlock(q: Queryable, hub: string, kind: BlockKind, name: string, found: Found): Promise<void> {
  await q.query("INSERT INTO hub_block (hub, kind, name, found) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", [
    hub,
    kind,
    name,
    found,
  ]);
}

export async function removeBlock(q: Queryable, hub: string, kind: BlockKind, name: string): Promise<void> {
  await q.query("DELETE FROM hub_block WHERE hub = $1 AND kind = $2 AND name = $3", [hub, kind, name]);
}

/** Devices that were given to `child` and aren't known to be kept out at the hub for its sake, behind `after`. */
export async function devicesToBlock(
  q: Queryable,
  hub: string,
  child: string,
  after: string,
  limit: number,
): Promise<string[]> {
  const { rows } = await q.query<{ id: string }>(
    `SELECT d.id FROM device d JOIN handoff h ON h.id = d.handoff
     WHERE NOT d.held AND h.direction = 'out' AND h.peer = $2 AND d.id > $3 AND NOT EXISTS (
       SELECT FROM hub_block b WHERE b.hub = $1 AND b.kind = 'device' AND b.name = d.id AND b.child = $2
         AND b.done IS NOT NULL)
     ORDER BY d.id LIMIT $4`,
    [hub, child, after, limit],
  );
  return rows.map(({ id }) => id);
}

/** Devices that are kept out at the hub for the child's sake, behind `after`. */
export async function blockedFor(
  q: Queryable,
  hub: string,
  child: string,
  after: string,
  limit: number,
): Promise<{ name: string; found: Found }[]> {
  const { rows } = await q.query<{ name: string; found: Found }>(
    `SELECT name, found FROM hub_block WHERE hub = $1 AND kind = 'device' AND child = $2 AND name > $3
     ORDER BY name LIMIT $4`,
    [hub, child, after, limit],
  );
  return rows;
}

/** Whose sake a device is kept out for, beside its own; `done` once the hub has it. Null: its own alone. */
export async function setBlockChild(
  q: Queryable,
  hub: string,
  device: string,
  { child, done }: { child: string | null; done: boolean },
): Promise<void> {
  await q.query(
    `UPDATE hub_block SET child = $3, done = CASE WHEN $4 THEN now() END
     WHERE hub = $1 AND kind = 'device' AND name = $2`,
    [hub, device, child, done],
  );
}
