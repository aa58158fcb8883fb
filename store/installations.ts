import type { Queryable, Tx } from "./db.ts";

export interface StoredOpening {
  readonly commitment: string;
  readonly domain: string;
  readonly salt: string;
  readonly value: unknown;
}

/** Keeps personal values apart from every record that commits to them. What was erased stays so. */
export async function storeOpenings(
  tx: Tx,
  openings: readonly (StoredOpening & { readonly device: string })[],
): Promise<void> {
  await tx.query(
    `INSERT INTO opening (commitment, device, domain, salt, value)
     SELECT c, i, d, s, v::jsonb FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS n(c, i, d, s, v)
     WHERE NOT EXISTS (SELECT FROM erasure WHERE commitment = c) ON CONFLICT DO NOTHING`,
    [
      openings.map((o) => o.commitment),
      openings.map((o) => o.device),
      openings.map((o) => o.domain),
      openings.map((o) => o.salt),
      openings.map((o) => JSON.stringify(o.value)),
    ],
  );
}

/** The values behind a device's installation that haven't been erased. */
export async function findOpenings(q: Queryable, device: string): Promise<StoredOpening[]> {
  const { rows } = await q.query<StoredOpening>(
    `SELECT o.commitment, o.domain, o.salt, o.value FROM installation i
     JOIN opening o ON o.commitment IN (i.place, i.time) WHERE i.device = $1 ORDER BY o.domain`,
    [device],
  );
  return rows;
}

export interface Erasure {
  readonly commitment: string;
  readonly domain: string;
  readonly erased: Date;
  readonly by: string;
}

/**
 * Erases what the commitments about a device stand for: salt and value. The records, and every proof over them, stay as
 * they are. Erasing again changes nothing, and tells of the first time.
 * @param domains which fields; all when left out
 * @returns the fields erased by this call
 */
export async function eraseOpenings(
  q: Queryable,
  device: string,
  by: string,
  domains?: readonly string[],
): Promise<string[]> {
  const { rows } = await q.query<{ domain: string }>(
    `WITH gone AS (
       DELETE FROM opening WHERE device = $1 AND ($2::text[] IS NULL OR domain = ANY($2)) RETURNING commitment, domain
     )
     INSERT INTO erasure (commitment, device, domain, erased_by) SELECT commitment, $1, domain, $3 FROM gone
     RETURNING domain`,
    [device, domains ?? null, by],
  );
  return rows.map((row) => row.domain).sort();
}

/** What was erased of a device. */
export async function findErasures(q: Queryable, device: string): Promise<Erasure[]> {
  const { rows } = await q.query<Erasure>(
    `SELECT commitment, domain, erased, erased_by AS by FROM erasure WHERE device = $1 ORDER BY domain, erased`,
    [device],
  );
  return rows;
}

export interface NewInstallation {
  readonly device: string;
  readonly technician: string;
  readonly place: string;
  readonly time: string;
  readonly leafHash: string;
}

export async function insertInstallations(
  tx: Tx,
  batch: string,
  installations: readonly NewInstallation[],
): Promise<void> {
  if (installations.length === 0) return;
  await tx.query(
    `INSERT INTO installation (batch, device, technician, place, time, leaf_hash)
     SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])`,
    [
      batch,
      installations.map((i) => i.device),
      installations.map((i) => i.technician),
      installations.map((i) => i.place),
      installations.map((i) => i.time),
      installations.map((i) => i.leafHash),
    ],
  );
}

/** Of these, what is installed already, with its batch. */
export async function installedIn(q: Queryable, devices: readonly string[]): Promise<Map<string, string>> {
  const { rows } = await q.query<{ device: string; batch: string }>(
    "SELECT device, batch FROM installation WHERE device = ANY($1)",
    [devices],
  );
  return new Map(rows.map((row) => [row.device, row.batch]));
}
