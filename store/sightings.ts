import type { Queryable } from "./db.ts";

/** Certificates that the hub saw, and what their signers' sites said of them. In the hub's database. */

export interface Sighting {
  /** of the DER, lower-case hex */
  readonly sha256: string;
  /** SHA-256 of the SPKI that signed it */
  readonly issuerKeyId: string;
  /** DER */
  readonly certificate: Uint8Array;
}

export type SightingState = "known" | "unknown" | "foreign";

/** Keeps those that aren't there yet. */
export async function insertSightings(q: Queryable, sightings: readonly Sighting[]): Promise<void> {
  await q.query(
    `INSERT INTO hub_sighting (sha256, issuer_key_id, certificate)
     SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) ON CONFLICT DO NOTHING`,
    [
      sightings.map(({ sha256 }) => sha256),
      sightings.map(({ issuerKeyId }) => issuerKeyId),
      sightings.map(({ certificate }) => Buffer.from(certificate)),
    ],
  );
}

/** Whether any waits for an answer. */
export async function anyOpenSighting(q: Queryable): Promise<boolean> {
  return (await q.query("SELECT 1 FROM hub_sighting WHERE state IS NULL LIMIT 1")).rowCount === 1;
}

/** Those without an answer that one of these keys signed, but for some. */
export async function openSightings(
  q: Queryable,
  issuerKeyIds: readonly string[],
  without: readonly string[],
  limit: number,
): Promise<Pick<Sighting, "sha256" | "certificate">[]> {
  const { rows } = await q.query<Pick<Sighting, "sha256" | "certificate">>(
    `SELECT sha256, certificate FROM hub_sighting
     WHERE state IS NULL AND issuer_key_id = ANY($1) AND NOT sha256 = ANY($2) LIMIT $3`,
    [issuerKeyIds, without, limit],
  );
  return rows;
}

export async function settleSightings(
  q: Queryable,
  answers: readonly { readonly sha256: string; readonly state: SightingState }[],
): Promise<void> {
  await q.query(
    `UPDATE hub_sighting SET state = a.state, certificate = NULL
     FROM unnest($1::text[], $2::text[]) AS a (sha256, state)
     WHERE hub_sighting.sha256 = a.sha256 AND hub_sighting.state IS NULL`,
    [answers.map(({ sha256 }) => sha256), answers.map(({ state }) => state)],
  );
}
