import type { ActRef, PrevRef } from "../lib/records/primitives.ts";
import type { Intake } from "../lib/records/manifest.ts";
import type { Queryable, Tx } from "./db.ts";

/**
 * What is about to be signed, and what was. A row's bytes are fixed before the HSM is asked; `certificate` takes the
 * first signed result and never another. Nothing is shown outside before `released`.
 */

export interface NewIntent {
  readonly device: string;
  readonly csrSha256: string;
  readonly issuerKeyId: string;
  readonly serial: string;
  readonly tbs: Uint8Array;
  /** the intent leaf and this TBS digest's place under its root */
  readonly intent: { leafHash: string; index: number; path: string[] };
  readonly intake: Intake;
}

/** One transaction's new rows share lot, profile and grant. @throws when a device, serial or profile is taken */
export async function insertIntents(
  tx: Tx,
  common: { lot: string; profile: string; grant: ActRef },
  intents: readonly NewIntent[],
): Promise<void> {
  if (intents.length === 0) return;
  await tx.query({
    name: "intent-insert",
    text: `INSERT INTO issuance (lot, profile, grant_origin, grant_leaf, device, csr_sha256, issuer_key_id, serial, tbs, intent, intake)
      SELECT $1, $2, $3, $4, d, c, k, s, t, n::jsonb, m::jsonb
      FROM unnest($5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::text[], $11::text[])
        AS r(d, c, k, s, t, n, m)`,
    values: [
      common.lot,
      common.profile,
      common.grant.origin,
      common.grant.leafHash,
      intents.map((i) => i.device),
      intents.map((i) => i.csrSha256),
      intents.map((i) => i.issuerKeyId),
      intents.map((i) => i.serial),
      intents.map((i) => i.tbs),
      intents.map((i) => JSON.stringify(i.intent)),
      intents.map((i) => JSON.stringify(i.intake)),
    ],
  });
}

export interface Issuance extends NewIntent {
  readonly lot: string;
  readonly profile: string;
  readonly grant: ActRef;
  readonly certificate: Uint8Array | null;
  /** retry key of the certified record, hex */
  readonly certifiedKey: string | null;
  readonly released: boolean;
  /** why it is never signed */
  readonly abandoned: string | null;
}

interface Row {
  device: string;
  csr_sha256: string;
  issuer_key_id: string;
  serial: string;
  tbs: Uint8Array;
  intent: NewIntent["intent"];
  intake: Intake;
  lot: string;
  profile: string;
  grant_origin: string;
  grant_leaf: string;
  certificate: Uint8Array | null;
  certified_key: string | null;
  released: boolean;
  abandoned: string | null;
}

const COLUMNS = `device, csr_sha256, issuer_key_id, serial, tbs, intent, intake, lot, profile, grant_origin, grant_leaf,
  certificate, certified_key, released, abandoned`;

function fromRow(row: Row): Issuance {
  return {
    device: row.device,
    csrSha256: row.csr_sha256,
    issuerKeyId: row.issuer_key_id,
    serial: row.serial,
    tbs: row.tbs,
    intent: row.intent,
    intake: row.intake,
    lot: row.lot,
    profile: row.profile,
    grant: { origin: row.grant_origin, leafHash: row.grant_leaf },
    certificate: row.certificate,
    certifiedKey: row.certified_key,
    released: row.released,
    abandoned: row.abandoned,
  };
}

export async function findIssuances(q: Queryable, profile: string, devices: readonly string[]): Promise<Issuance[]> {
  const { rows } = await q.query<Row>({
    name: "issuance-find",
    text: `SELECT ${COLUMNS} FROM issuance WHERE profile = $1 AND device = ANY($2)`,
    values: [profile, devices],
  });
  return rows.map(fromRow);
}

/** Retry keys (hex) of the certified records of those of these devices that have their certificate. */
export async function certifiedKeys(q: Queryable, profile: string, devices: readonly string[]): Promise<string[]> {
  const { rows } = await q.query<{ key: string }>({
    name: "issuance-keys",
    text: `SELECT certified_key AS key FROM issuance
      WHERE profile = $1 AND device = ANY($2) AND certificate IS NOT NULL`,
    values: [profile, devices],
  });
  return rows.map((row) => row.key);
}

/**
 * Of these, the devices whose certificate isn't stored yet, and each one's last act. Locks all of them. Two statements: the
 * look at issuance happens when the locks are held, so a certificate that was stored while this waited is seen.
 */
export async function lockUnsigned(
  tx: Tx,
  profile: string,
  devices: readonly string[],
): Promise<Map<string, { slot: number; spkiSha256: string; prev: PrevRef }>> {
  const locked = await tx.query<{ id: string; slot: number; spkiSha256: string; prev: PrevRef }>({
    name: "issuance-lock",
    text: `SELECT id, slot, spki_sha256 AS "spkiSha256", prev FROM device WHERE id = ANY($1) ORDER BY id FOR UPDATE`,
    values: [devices],
  });
  const { rows } = await tx.query<{ device: string }>({
    name: "issuance-unsigned",
    text: "SELECT device FROM issuance WHERE profile = $1 AND device = ANY($2) AND certificate IS NULL AND abandoned IS NULL",
    values: [profile, devices],
  });
  const unsigned = new Set(rows.map((row) => row.device));
  return new Map(locked.rows.flatMap(({ id, ...rest }) => (unsigned.has(id) ? [[id, rest] as const] : [])));
}

/** Stores signed certificates where there is none yet; the caller holds the locks of {@link lockUnsigned}. */
export async function storeCertificates(
  tx: Tx,
  profile: string,
  certified: readonly { device: string; certificate: Uint8Array; retryKey: string; leafHash: string }[],
): Promise<void> {
  if (certified.length === 0) return;
  await tx.query({
    name: "issuance-store",
    text: `UPDATE issuance i SET certificate = n.c, certified_key = n.k, certified_leaf = n.l
      FROM unnest($2::text[], $3::bytea[], $4::text[], $5::text[]) AS n(d, c, k, l)
      WHERE i.device = n.d AND i.profile = $1 AND i.certificate IS NULL`,
    values: [
      profile,
      certified.map((c) => c.device),
      certified.map((c) => c.certificate),
      certified.map((c) => c.retryKey),
      certified.map((c) => c.leafHash),
    ],
  });
}

/** Lets certificates out. The caller has seen their records under a signed checkpoint. */
export async function releaseCertificates(tx: Tx, profile: string, devices: readonly string[]): Promise<void> {
  if (devices.length === 0) return;
  await tx.query({
    name: "issuance-release",
    text: `UPDATE issuance SET released = true
      WHERE profile = $1 AND device = ANY($2) AND certificate IS NOT NULL AND NOT released`,
    values: [profile, devices],
  });
}
