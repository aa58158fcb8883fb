import type { Queryable, Tx } from "./db.ts";

/** What devices' TPMs were asked, and whose answer held. */

export interface NewChallenge {
  readonly id: string;
  readonly device: string;
  readonly lot: string;
  readonly nonce: Uint8Array;
  readonly secretSha256: Uint8Array;
  /** base64 */
  readonly asked: { readonly ekCertificates: readonly string[]; readonly akPublic: string };
}

/** Takes the place of the device's challenge before. Gives when it expires. */
export async function putChallenge(tx: Tx, challenge: NewChallenge, seconds: number): Promise<Date> {
  const { rows } = await tx.query<{ expires: Date }>(
    `INSERT INTO attestation_challenge (device, id, lot, nonce, secret_sha256, asked, expires)
     VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
     ON CONFLICT (device) DO UPDATE SET id = EXCLUDED.id, lot = EXCLUDED.lot, nonce = EXCLUDED.nonce,
       secret_sha256 = EXCLUDED.secret_sha256, asked = EXCLUDED.asked, expires = EXCLUDED.expires, spent = NULL
     RETURNING expires`,
    [
      challenge.device,
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

/** Takes the challenge for its one answer, whatever becomes of that. Of two at once one gets it. */
export async function spendChallenge(q: Queryable, id: string): Promise<Spending> {
  const { rows } = await q.query<NewChallenge>(
    `UPDATE attestation_challenge SET spent = now() WHERE id = $1 AND spent IS NULL AND expires > now()
     RETURNING id, device, lot, nonce, secret_sha256 AS "secretSha256", asked`,
    [id],
  );
  if (rows[0] !== undefined) return { state: "taken", challenge: rows[0] };
  const found = await q.query<{ spent: Date | null }>("SELECT spent FROM attestation_challenge WHERE id = $1", [id]);
  if (found.rows[0] === undefined) return { state: "unknown" };
  return { state: found.rows[0].spent === null ? "expired" : "spent" };
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
