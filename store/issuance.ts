import { toHex } from "../lib/domain/bytes.ts";
import type { Intake } from "../lib/records/manifest.ts";
import type { ActRef, PrevRef } from "../lib/records/primitives.ts";
import { withKeptPlans, type Queryable, type Tx } from "./db.ts";
import { hexHashes, ints, packed, packedHex, texts } from "./packed.ts";

/**
 * What is about to be signed, and what was. An intent's bytes are fixed before the HSM is asked; its certificate is the
 * first signed result and never another. Both together are the view `issuance`. Nothing is shown outside before its record
 * is under a signed checkpoint: such rows are the view `released_issuance`.
 */

export interface NewIntent {
  readonly device: string;
  readonly csrSha256: string;
  readonly issuerKeyId: string;
  readonly serial: string;
  readonly tbs: Uint8Array;
  /** the intent leaf and this TBS digest's place under its root */
  readonly intent: { leafHash: string; index: number; path: string[] };
  readonly intake: ManifestIntake;
}
export type ManifestIntake = Extract<Intake, { kind: "manifest" }>;

/**
 * One transaction's new rows share lot, profile, grant and issuer.
 * @throws when a device, serial or profile is taken
 */
export async function insertIntents(
  tx: Tx,
  common: { lot: string; profile: string; grant: ActRef },
  intents: readonly NewIntent[],
): Promise<void> {
  const [first] = intents;
  if (first === undefined) return;
  // Most share their record and their manifest: each is sent once.
  const [leaves, leafOf] = listed(intents.map((i) => i.intent.leafHash));
  const [digests, digestOf] = listed(intents.map((i) => i.intake.digest));
  const tbs = packed(intents.map((i) => i.tbs));
  const intentPaths = packed(intents.map((i) => pathBytes(i.intent.path)));
  const intakePaths = packed(intents.map((i) => pathBytes(i.intake.path)));
  await withKeptPlans(tx, () =>
    tx.query({
      name: "intent-insert",
      text: `INSERT INTO issuance_intent (lot, profile, grant_origin, grant_leaf, issuer_key_id, intent_leaf, intake_digest,
        device, csr_sha256, serial, intent_index, intake_index, tbs, intent_path, intake_path)
      SELECT $1, $2, $3, $4, $5, ($6::text[])[l], ($7::text[])[m], d, c, s, ni, mi, substring($13::bytea FROM te - ts + 1 FOR ts),
        substring($16::bytea FROM ne - ns + 1 FOR ns), substring($19::bytea FROM me - ms + 1 FOR ms)
      FROM unnest($8::text[], $9::text[], $10::text[], $11::int[], $12::int[], $14::int[], $15::int[], $17::int[],
        $18::int[], $20::int[], $21::int[], $22::int[], $23::int[]) AS r(d, c, s, ni, mi, te, ts, ne, ns, me, ms, l, m)`,
      values: [
        common.lot,
        common.profile,
        common.grant.origin,
        common.grant.leafHash,
        first.issuerKeyId,
        texts(leaves),
        texts(digests),
        texts(intents.map((i) => i.device)),
        texts(intents.map((i) => i.csrSha256)),
        texts(intents.map((i) => i.serial)),
        ints(intents.map((i) => i.intent.index)),
        ints(intents.map((i) => i.intake.index)),
        tbs.bytes,
        tbs.ends,
        tbs.sizes,
        intentPaths.bytes,
        intentPaths.ends,
        intentPaths.sizes,
        intakePaths.bytes,
        intakePaths.ends,
        intakePaths.sizes,
        ints(leafOf),
        ints(digestOf),
      ],
    }),
  );
}

/** The different ones of these, and each one's place among them, from 1. */
function listed(values: readonly string[]): [string[], number[]] {
  const places = new Map<string, number>();
  for (const value of values) if (!places.has(value)) places.set(value, places.size + 1);
  return [[...places.keys()], values.map((value) => places.get(value)!)];
}

/** An audit path of hex hashes as it is stored: one hash behind the other. */
export const pathBytes = (path: readonly string[]): Uint8Array => Buffer.from(path.join(""), "hex");
const pathOf = (bytes: Uint8Array): string[] => hexHashes(toHex(bytes));

export interface Issuance extends NewIntent {
  readonly lot: string;
  readonly profile: string;
  readonly grant: ActRef;
  readonly certificate: Uint8Array | null;
  /** retry key of the certified record, hex */
  readonly certifiedKey: string | null;
  /** why it is never signed */
  readonly abandoned: string | null;
}

interface Row {
  device: string;
  csr_sha256: string;
  issuer_key_id: string;
  serial: string;
  tbs: Uint8Array;
  intent_leaf: string;
  intent_index: number;
  intent_path: Uint8Array;
  intake_digest: string;
  intake_index: number;
  intake_path: Uint8Array;
  lot: string;
  profile: string;
  grant_origin: string;
  grant_leaf: string;
  certificate: Uint8Array | null;
  certified_key: string | null;
  abandoned: string | null;
}

const COLUMNS = `device, csr_sha256, issuer_key_id, serial, tbs, intent_leaf, intent_index, intent_path, intake_digest,
  intake_index, intake_path, lot, profile, grant_origin, grant_leaf, certificate, certified_key, abandoned`;

function fromRow(row: Row): Issuance {
  return {
    device: row.device,
    csrSha256: row.csr_sha256,
    issuerKeyId: row.issuer_key_id,
    serial: row.serial,
    tbs: row.tbs,
    intent: { leafHash: row.intent_leaf, index: row.intent_index, path: pathOf(row.intent_path) },
    intake: { kind: "manifest", digest: row.intake_digest, index: row.intake_index, path: pathOf(row.intake_path) },
    lot: row.lot,
    profile: row.profile,
    grant: { origin: row.grant_origin, leafHash: row.grant_leaf },
    certificate: row.certificate,
    certifiedKey: row.certified_key,
    abandoned: row.abandoned,
  };
}

export async function findIssuances(q: Queryable, profile: string, devices: readonly string[]): Promise<Issuance[]> {
  const { rows } = await q.query<Row>({
    name: "issuance-find",
    text: `SELECT ${COLUMNS} FROM issuance WHERE profile = $1 AND device = ANY($2)`,
    values: [profile, texts(devices)],
  });
  return rows.map(fromRow);
}

/** Retry keys (hex) of the certified records of those of these devices that have their certificate. */
export async function certifiedKeys(q: Queryable, profile: string, devices: readonly string[]): Promise<string[]> {
  const { rows } = await q.query<{ keys: string | null }>({
    name: "issuance-keys",
    text: `SELECT encode(string_agg(retry_key, ''::bytea), 'hex') AS keys FROM issuance_certificate
      WHERE profile = $1 AND device = ANY($2)`,
    values: [profile, texts(devices)],
  });
  return hexHashes(rows[0]!.keys);
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
    values: [texts(devices)],
  });
  const { rows } = await tx.query<{ unsigned: string | null }>({
    name: "issuance-unsigned",
    // No device ID has a space in it.
    text: `SELECT string_agg(device, ' ') AS unsigned FROM issuance_intent
      WHERE profile = $1 AND device = ANY($2) AND abandoned IS NULL AND device <> ALL (
        ARRAY(SELECT device FROM issuance_certificate WHERE profile = $1 AND device = ANY($2)))`,
    values: [profile, texts(devices)],
  });
  const unsigned = new Set(rows[0]!.unsigned?.split(" "));
  return new Map(locked.rows.flatMap(({ id, ...rest }) => (unsigned.has(id) ? [[id, rest] as const] : [])));
}

/** Stores signed certificates: the first of each stays. The caller holds the locks of {@link lockUnsigned}. */
export async function storeCertificates(
  tx: Tx,
  profile: string,
  certified: readonly { device: string; certificate: Uint8Array; retryKey: string; leafHash: string }[],
): Promise<void> {
  if (certified.length === 0) return;
  const certificates = packed(certified.map((c) => c.certificate));
  await withKeptPlans(tx, () =>
    tx.query({
      name: "issuance-store",
      text: `INSERT INTO issuance_certificate (device, profile, certificate, retry_key, leaf_hash)
      SELECT d, $1, substring($3::bytea FROM e - s + 1 FOR s), substring($6::bytea FROM 32 * o::int - 31 FOR 32),
        substring($7::bytea FROM 32 * o::int - 31 FOR 32)
      FROM unnest($2::text[], $4::int[], $5::int[]) WITH ORDINALITY AS n(d, e, s, o)
      ON CONFLICT DO NOTHING`,
      values: [
        profile,
        texts(certified.map((c) => c.device)),
        certificates.bytes,
        certificates.ends,
        certificates.sizes,
        packedHex(certified.map((c) => c.retryKey)),
        packedHex(certified.map((c) => c.leafHash)),
      ],
    }),
  );
}

/** Of these devices, those whose certificate may be shown: its record is under a signed checkpoint. */
export async function releasedDevices(q: Queryable, profile: string, devices: readonly string[]): Promise<Set<string>> {
  return new Set((await releasedCertificates(q, profile, devices)).keys());
}

export interface ReleasedCertificate {
  /** DER */
  readonly certificate: Uint8Array;
  /** the grant it was certified under, by its act */
  readonly grantLeaf: string;
}

/** By device, the certificates of these devices that may be shown. */
export async function releasedCertificates(
  q: Queryable,
  profile: string,
  devices: readonly string[],
): Promise<Map<string, ReleasedCertificate>> {
  if (devices.length === 0) return new Map();
  const { rows } = await q.query<ReleasedCertificate & { device: string }>(
    `SELECT device, certificate, grant_leaf AS "grantLeaf" FROM released_issuance
     WHERE profile = $1 AND device = ANY($2)`,
    [profile, devices],
  );
  return new Map(rows.map(({ device, ...released }) => [device, released]));
}
