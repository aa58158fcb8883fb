import type { Queryable, Tx } from "./db.ts";

/** What devices' TPMs were asked, and whose answer held. */

export interface NewChallenge {
  readonly id: string;
  /** SHA-256 of the asking client's SPKI, lower-case hex */
  readonly asker: string;
  readonly device: string;
  readonly lot: string;
  readonly nonce: Uint8Array;
  readonly secretSha256: Uint8Array;
  /** base64 */
  readonly asked: { readonly ekCertificates: readonly string[]; readonly akPublic: string };
}

/** Takes the place of the asker's challenge of this device before, and of no other's. Gives when it expires. */
export async function putChallenge(tx: Tx, challenge: NewChallenge, seconds: number): Promise<Date> {
  await tx.query(
    "DELETE FROM attestation_challenge WHERE device = $1 AND asker <> $2 AND expires < now() - interval '1 day'",
    [challenge.device, challenge.asker],
  );
  const { rows } = await tx.query<{ expires: Date }>(
    `INSERT INTO attestation_challenge (device, asker, id, lot, nonce, secret_sha256, asked, expires)
     VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))
     ON CONFLICT (device, asker) DO UPDATE SET id = EXCLUDED.id, lot = EXCLUDED.lot, nonce = EXCLUDED.nonce,
       secret_sha256 = EXCLUDED.secret_sha256, asked = EXCLUDED.asked, expires = EXCLUDED.expires, spent = NULL
     RETURNING expires`,
    [
      challenge.device,
      challenge.asker,
      challenge.id,
      challenge.lot,
      challenge.nonce,
      challenge.secretSha256,
      JSON.stringify(challenge.asked),
      seconds,
    ],
  );
  return rows[0]!.expires;
}

export type Spending =
  { readonly state: "taken"; readonly challenge: NewChallenge } | { readonly state: "unknown" | "spent" | "expired" };

/** Takes the challenge for its one answer, whatever becomes of that. Of two at once one gets it; nobody but its asker. */
export async function spendChallenge(
  q: Queryable,
  { id, lot, asker }: Pick<NewChallenge, "id" | "lot" | "asker">,
): Promise<Spending> {
  const its = "id = $1 AND lot = $2 AND asker = $3";
  const { rows } = await q.query<NewChallenge>(
    `UPDATE attestation_challenge SET spent = now() WHERE ${its} AND spent IS NULL AND expires > now()
     RETURNING id, asker, device, lot, nonce, secret_sha256 AS "secretSha256", asked`,
    [id, lot, asker],
  );
  if (rows[0] !== undefined) return { state: "taken", challenge: rows[0] };
  const sql = `SELECT spent FROM attestation_challenge WHERE ${its}`;
  const found = (await q.query<{ spent: Date | null }>(sql, [id, lot, asker])).rows[0];
  if (found === undefined) return { state: "unknown" };
  return { state: found.spent === null ? "expired" : "spent" };
}

export interface Attestation {
  readonly device: string;
  readonly evidenceSha256: string;
  readonly leafHash: string;
}

export async function insertAttestation(tx: Tx, attestation: Attestation): Promise<void> {
  await tx.query(
    "INSERT INTO attestation (device, evidence_sha256, leaf_hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    [attestation.device, attestation.evidenceSha256, attestation.leafHash],
  );
}

/** Of these devices, those that are attested. */
export async function attestedDevices(q: Queryable, devices: readonly string[]): Promise<Map<string, Attestation>> {
  const { rows } = await q.query<Attestation>(
    `SELECT device, evidence_sha256 AS "evidenceSha256", leaf_hash AS "leafHash" FROM attestation WHERE device = ANY($1)`,
    [devices],
  );
  return new Map(rows.map((row) => [row.device, row]));
}
