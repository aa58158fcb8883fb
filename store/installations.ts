import type { Queryable, Tx } from "./db.ts";

export interface StoredOpening {
  readonly commitment: string;
  readonly domain: string;
  readonly salt: string;
  readonly value: unknown;
}

/** Keeps personal values apart from every record that commits to them. */
export async function storeOpenings(tx: Tx, openings: readonly StoredOpening[]): Promise<void> {
  await tx.query(
    `INSERT INTO opening (commitment, domain, salt, value)
     SELECT c, d, s, v::jsonb FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS n(c, d, s, v)
     ON CONFLICT DO NOTHING`,
    [
      openings.map((o) => o.commitment),
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

/** Erases what an installation's commitments stand for. The records, and every proof over them, stay as they are. */
export async function eraseOpenings(q: Queryable, device: string): Promise<number> {
  const { rowCount } = await q.query(
    "DELETE FROM opening o USING installation i WHERE i.device = $1 AND o.commitment IN (i.place, i.time)",
    [device],
  );
  return rowCount ?? 0;
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
