import type { PrevRef } from "../lib/records/primitives.ts";
import type { Receipt } from "../lib/records/receipt.ts";
import type { Queryable, Tx } from "./db.ts";
import { releasedCertificates } from "./issuance.ts";

/** Injection runs over a lot, and what each device got. */

export interface InjectionRun {
  readonly id: string;
  readonly lot: string;
  /** devices in all; null: every certified one */
  readonly limit: number | null;
  readonly state: "running" | "done";
  readonly done: number;
  readonly failed: number;
}

export async function insertRun(
  q: Queryable,
  run: { id: string; lot: string; limit?: number | undefined },
): Promise<void> {
  await q.query("INSERT INTO injection_run (id, lot, device_limit) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", [
    run.id,
    run.lot,
    run.limit ?? null,
  ]);
}

const RUN = `SELECT r.id, r.lot, r.device_limit AS limit, r.state,
    count(j.device) FILTER (WHERE j.leaf_hash IS NOT NULL) AS done,
    count(j.device) FILTER (WHERE j.code IS NOT NULL) AS failed
  FROM injection_run r LEFT JOIN injection j ON j.run = r.id`;

export async function findRun(q: Queryable, id: string): Promise<InjectionRun | undefined> {
  const { rows } = await q.query<InjectionRun>(`${RUN} WHERE r.id = $1 GROUP BY r.id`, [id]);
  return rows[0];
}

/** The lot's newest run. */
export async function latestRun(q: Queryable, lot: string): Promise<InjectionRun | undefined> {
  const { rows } = await q.query<InjectionRun>(
    `${RUN} WHERE r.lot = $1 GROUP BY r.id ORDER BY r.started DESC LIMIT 1`,
    [lot],
  );
  return rows[0];
}

/** Runs that aren't done and were asked for `olderThanMs` ago: their workflow may never have been started. */
export async function waitingRuns(q: Queryable, olderThanMs: number): Promise<string[]> {
  const { rows } = await q.query<{ id: string }>(
    `SELECT id FROM injection_run
     WHERE state = 'running' AND started < now() - make_interval(secs => $1) ORDER BY started LIMIT 1000`,
    [olderThanMs / 1000],
  );
  return rows.map((row) => row.id);
}

export async function finishRun(q: Queryable, id: string): Promise<void> {
  await q.query("UPDATE injection_run SET state = 'done' WHERE id = $1", [id]);
}

export interface InjectionCandidate {
  readonly device: string;
  readonly slot: number;
  readonly spkiSha256: string;
  readonly csr: Uint8Array;
  readonly certificate: Uint8Array;
  /** the grant that it was certified under, by its act */
  readonly grantLeaf: string;
}

/**
 * The next devices, in slot order, that are held here, have a released certificate and weren't tried yet; those that an
 * earlier run failed for are tried again.
 */
export async function nextCandidates(
  q: Queryable,
  run: string,
  lot: string,
  profile: string,
  limit: number,
): Promise<InjectionCandidate[]> {
  const found: InjectionCandidate[] = [];
  // A page of devices at a time, and only then their certificates: joined in one statement, a plan may read those of the
  // whole lot for every page.
  for (let after = 0; found.length < limit;) {
    const page = await q.query<Omit<InjectionCandidate, "certificate" | "grantLeaf">>(
      `SELECT d.id AS device, d.slot, d.spki_sha256 AS "spkiSha256", d.csr FROM device d
       WHERE d.lot = $1 AND d.held AND d.stage IN ('certified', 'installed') AND d.slot > $3
         AND NOT EXISTS (SELECT 1 FROM injection j WHERE j.device = d.id AND (j.leaf_hash IS NOT NULL OR j.run = $4))
       ORDER BY d.slot LIMIT $2`,
      [lot, limit, after, run],
    );
    const released = await releasedCertificates(
      q,
      profile,
      page.rows.map(({ device }) => device),
    );
    for (const row of page.rows) {
      const certified = released.get(row.device);
      if (certified !== undefined && found.length < limit) found.push({ ...row, ...certified });
    }
    if (page.rows.length < limit) break;
    after = page.rows.at(-1)!.slot;
  }
  return found;
}

/** Of these, those still held and not injected, locked with their last act. */
export async function lockUninjected(
  tx: Tx,
  devices: readonly string[],
): Promise<Map<string, { prev: PrevRef; installed: boolean }>> {
  const { rows } = await tx.query<{ id: string; prev: PrevRef; installed: boolean }>(
    `SELECT d.id, d.prev, d.stage = 'installed' AS installed FROM device d
     WHERE d.id = ANY($1) AND d.held ORDER BY d.id FOR UPDATE`,
    [devices],
  );
  const done = await tx.query<{ device: string }>(
    "SELECT device FROM injection WHERE device = ANY($1) AND leaf_hash IS NOT NULL",
    [devices],
  );
  const locked = new Map(rows.map(({ id, ...rest }) => [id, rest]));
  for (const { device } of done.rows) locked.delete(device);
  return locked;
}

export interface NewInjection {
  readonly device: string;
  readonly receipt?: Receipt;
  readonly imagePath?: string;
  readonly leafHash?: string;
  readonly error?: { code: string; message: string };
}

export async function insertInjections(tx: Tx, run: string, injections: readonly NewInjection[]): Promise<void> {
  if (injections.length === 0) return;
  await tx.query(
    `INSERT INTO injection (run, device, receipt, image_path, leaf_hash, code, message)
     SELECT $1, d, r::jsonb, p, l, c, m
     FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS n(d, r, p, l, c, m)
     ON CONFLICT (device) DO UPDATE SET run = excluded.run, receipt = excluded.receipt,
       image_path = excluded.image_path, leaf_hash = excluded.leaf_hash, code = excluded.code, message = excluded.message
     WHERE injection.leaf_hash IS NULL`,
    [
      run,
      injections.map((i) => i.device),
      injections.map((i) => (i.receipt === undefined ? null : JSON.stringify(i.receipt))),
      injections.map((i) => i.imagePath ?? null),
      injections.map((i) => i.leafHash ?? null),
      injections.map((i) => i.error?.code ?? null),
      injections.map((i) => i.error?.message.slice(0, 500) ?? null),
    ],
  );
}

/** What came of trying to give a device its image; a receipt or a code. */
export interface DeviceInjection {
  readonly device: string;
  /** of the key in the device's CSR */
  readonly spkiSha256: string;
  readonly certificate: Uint8Array | null;
  readonly receipt: Receipt | null;
  readonly imagePath: string | null;
  readonly code: string | null;
  readonly message: string | null;
}

export async function findInjections(
  q: Queryable,
  profile: string,
  devices: readonly string[],
): Promise<DeviceInjection[]> {
  const { rows } = await q.query<DeviceInjection>(
    `SELECT j.device, d.spki_sha256 AS "spkiSha256", i.certificate, j.receipt, j.image_path AS "imagePath", j.code, j.message
     FROM injection j JOIN device d ON d.id = j.device
     LEFT JOIN released_issuance i ON i.device = d.id AND i.profile = $2
     WHERE j.device = ANY($1)`,
    [devices, profile],
  );
  return rows;
}
