import { CountersignError } from "../lib/domain/errors.ts";
import type { Intake } from "../lib/records/manifest.ts";
import type { PrevRef } from "../lib/records/primitives.ts";
import type { Receipt } from "../lib/records/receipt.ts";
import type { Queryable, Tx } from "./db.ts";
import { pathBytes } from "./issuance.ts";

/** What comes back into the tables from the ledger, after a database was restored that is behind it. */

export interface AdoptedAct {
  readonly retryKey: Uint8Array;
  readonly type: string;
  /** of a signed act */
  readonly statement: Uint8Array | null;
  readonly entry: Uint8Array;
  readonly leafHash: Uint8Array;
  readonly prev: readonly Uint8Array[];
}

/**
 * Stores an act as the ledger holds it, over what the database may have been about to record under its key, and takes it
 * out of the queue. True when the database had recorded the act: then what followed from it is there as well.
 */
export async function adoptAct(tx: Tx, act: AdoptedAct): Promise<boolean> {
  const known = await tx.query({
    name: "recovery-known",
    text: "SELECT 1 FROM ledger_act WHERE retry_key = $1 AND entry IS NOT NULL AND refused IS NULL",
    values: [act.retryKey],
  });
  await tx.query({
    name: "recovery-adopt",
    text: `INSERT INTO ledger_act (retry_key, type, statement, entry, leaf_hash, prev) VALUES ($1, $2, $3, $4, $5, $6)
      ON CONFLICT (retry_key) DO UPDATE SET statement = EXCLUDED.statement, entry = EXCLUDED.entry,
        leaf_hash = EXCLUDED.leaf_hash, prev = EXCLUDED.prev, refused = NULL`,
    values: [act.retryKey, act.type, act.statement, act.entry, act.leafHash, act.prev],
  });
  return known.rowCount === 1;
}

/** Takes out of the queue what is in the tree by now. */
export async function unqueueSequenced(tx: Tx): Promise<void> {
  await tx.query(
    `WITH waiting AS (
       SELECT p.id, string_agg(k.key, '' ORDER BY o) AS keys
       FROM ledger_pending p CROSS JOIN generate_series(1, octet_length(p.retry_keys), 32) o
         CROSS JOIN LATERAL (SELECT substring(p.retry_keys FROM o FOR 32) AS key) k
       WHERE NOT EXISTS (SELECT 1 FROM ledger_leaf l WHERE l.retry_key = k.key)
       GROUP BY p.id
     ), done AS (
       DELETE FROM ledger_pending p WHERE NOT EXISTS (SELECT 1 FROM waiting w WHERE w.id = p.id)
     )
     UPDATE ledger_pending p SET retry_keys = w.keys FROM waiting w WHERE w.id = p.id AND w.keys <> p.retry_keys`,
  );
}

export async function adoptSlot(tx: Tx, lot: string, slot: number): Promise<void> {
  await tx.query("UPDATE lot_slots SET taken = GREATEST(taken, $2) WHERE lot = $1", [lot, slot]);
}

export interface AdoptedCertificate {
  readonly device: string;
  readonly lot: string;
  readonly profile: string;
  readonly issuerKeyId: string;
  readonly serial: string;
  readonly tbs: Uint8Array;
  readonly intent: { readonly leafHash: string; readonly index: number; readonly path: readonly string[] };
  readonly intake: Intake;
  readonly grant: { readonly origin: string; readonly leafHash: string };
  readonly certificate: Uint8Array;
  /** hex */
  readonly retryKey: string;
  readonly leafHash: string;
}

/** What the ledger holds. */
export async function adoptCertificate(tx: Tx, issued: AdoptedCertificate): Promise<void> {
  const { intent } = issued;
  const intake = issued.intake.kind === "manifest" ? issued.intake : undefined;
  await tx.query({
    name: "recovery-certificate",
    text: `WITH intent AS (
        INSERT INTO issuance_intent (device, profile, lot, csr_sha256, issuer_key_id, serial, tbs, intent_leaf,
          intent_index, intent_path, intake_digest, intake_index, intake_path, grant_origin, grant_leaf)
        SELECT d.id, $2, $3, d.csr_sha256, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14 FROM device d WHERE d.id = $1
        ON CONFLICT (device, profile) DO UPDATE SET issuer_key_id = EXCLUDED.issuer_key_id, serial = EXCLUDED.serial,
          tbs = EXCLUDED.tbs, intent_leaf = EXCLUDED.intent_leaf, intent_index = EXCLUDED.intent_index,
          intent_path = EXCLUDED.intent_path, intake_digest = EXCLUDED.intake_digest,
          intake_index = EXCLUDED.intake_index, intake_path = EXCLUDED.intake_path, abandoned = NULL
        RETURNING device, profile
      ) INSERT INTO issuance_certificate (device, profile, certificate, retry_key, leaf_hash)
      SELECT device, profile, $15, $16, $17 FROM intent
      ON CONFLICT (device, profile) DO UPDATE SET certificate = EXCLUDED.certificate, retry_key = EXCLUDED.retry_key,
        leaf_hash = EXCLUDED.leaf_hash`,
    values: [
      issued.device,
      issued.profile,
      issued.lot,
      issued.issuerKeyId,
      issued.serial,
      issued.tbs,
      intent.leafHash,
      intent.index,
      pathBytes(intent.path),
      intake?.digest ?? null,
      intake?.index ?? null,
      intake === undefined ? null : pathBytes(intake.path),
      issued.grant.origin,
      issued.grant.leafHash,
      issued.certificate,
      Buffer.from(issued.retryKey, "hex"),
      Buffer.from(issued.leafHash, "hex"),
    ],
  });
}

export async function adoptInjection(
  tx: Tx,
  injection: { device: string; receipt: Receipt; imagePath: string; leafHash: string },
): Promise<void> {
  await tx.query(
    `INSERT INTO injection (device, run, receipt, image_path, leaf_hash) VALUES ($1, NULL, $2, $3, $4)
     ON CONFLICT (device) DO UPDATE SET receipt = EXCLUDED.receipt, image_path = EXCLUDED.image_path,
       leaf_hash = EXCLUDED.leaf_hash, code = NULL, message = NULL`,
    [injection.device, JSON.stringify(injection.receipt), injection.imagePath, injection.leafHash],
  );
}

export async function adoptInstallation(
  tx: Tx,
  installation: { device: string; technician: string; place: string; time: string; leafHash: string },
): Promise<void> {
  await tx.query(
    `INSERT INTO installation (device, batch, technician, place, time, leaf_hash) VALUES ($1, NULL, $2, $3, $4, $5)
     ON CONFLICT (device) DO NOTHING`,
    [installation.device, installation.technician, installation.place, installation.time, installation.leafHash],
  );
}

/** A device moves on; what it has come to already it doesn't lose. */
export async function adoptStage(tx: Tx, device: string, stage: string, prev: PrevRef): Promise<boolean> {
  const { rowCount } = await tx.query({
    name: "recovery-stage",
    text: `UPDATE device SET prev = $3, stage = CASE WHEN stage = 'installed' THEN stage ELSE $2 END WHERE id = $1`,
    values: [device, stage, JSON.stringify(prev)],
  });
  return rowCount === 1;
}

/** The device's last act, of one that leaves it in its stage. */
export async function adoptPrev(tx: Tx, device: string, prev: PrevRef): Promise<boolean> {
  const { rowCount } = await tx.query("UPDATE device SET prev = $2 WHERE id = $1", [device, JSON.stringify(prev)]);
  return rowCount === 1;
}

/** The grant that certificates of this leaf were issued under. */
export async function grantCertificate(q: Queryable, leafHash: string): Promise<Uint8Array | undefined> {
  const { rows } = await q.query<{ certificate: Uint8Array }>(
    "SELECT certificate FROM grant_received WHERE leaf_hash = $1",
    [leafHash],
  );
  return rows[0]?.certificate;
}

/**
 * A delegation whose act the ledger holds, the revision after the one that is there or that one itself: the child's
 * earlier certificate stays known, as it stays good and has to be revoked with the last one. False when the child's join,
 * or a revision in between, isn't in the database.
 */
export async function adoptDelegation(
  tx: Tx,
  delegation: {
    child: string;
    revision: number;
    notAfter: string;
    certificate: Uint8Array;
    /** what the certificate answers, where that is another key's request than the one before; DER */
    request?: { csr: Uint8Array; csrSha256: string; nonceSha256: string };
    origin: string;
    leafHash: string;
    entry: Uint8Array;
  },
): Promise<boolean> {
  const { child, revision, notAfter, certificate, request, origin, leafHash, entry } = delegation;
  await tx.query(
    `INSERT INTO delegation_superseded (child, revision, leaf_hash, certificate)
     SELECT child, revision, act_leaf_hash, certificate FROM delegation
     WHERE child = $1 AND revision = $2 - 1 AND act_leaf_hash IS NOT NULL AND certificate IS NOT NULL`,
    [child, revision],
  );
  await tx.query(
    `UPDATE delegation SET state = 'issued', revision = $2, terms = terms || jsonb_build_object('notAfter', $3::text),
       superseded_leaf_hash = act_leaf_hash, superseded_certificate = certificate,
       acceptance_leaf_hash = NULL, acceptance_entry = NULL, refused_by = NULL, error_code = NULL, error_message = NULL
     WHERE child = $1 AND revision = $2 - 1 AND act_leaf_hash IS NOT NULL AND certificate IS NOT NULL`,
    [child, revision, notAfter],
  );
  const { rowCount } = await tx.query(
    `UPDATE delegation SET state = CASE WHEN state = 'accepted' THEN state ELSE 'issued' END, certificate = $3,
       act_origin = $4, act_leaf_hash = $5, act_entry = $6 WHERE child = $1 AND revision = $2`,
    [child, revision, certificate, origin, leafHash, entry],
  );
  if (request !== undefined) {
    const sql = "UPDATE delegation SET csr = $3, csr_sha256 = $4, nonce_sha256 = $5 WHERE child = $1 AND revision = $2";
    await tx.query(sql, [child, revision, request.csr, request.csrSha256, request.nonceSha256]);
  }
  return rowCount === 1;
}

/** The current grant's counter never falls below what the ledger shows, with the intents that are still open. */
export async function adoptQuota(tx: Tx, spent: number): Promise<void> {
  await tx.query(
    `UPDATE grant_received SET used = GREATEST(used, LEAST(quota, $1::bigint +
       (SELECT count(*) FROM issuance WHERE certificate IS NULL))) WHERE current`,
    [spent],
  );
}

export interface LastTaken {
  readonly party: string;
  /** of the last envelope that this site holds from it */
  readonly epoch: number;
  readonly sequence: number;
}

/** Starts this site's numbering towards every peer again, and gives how far each of them had got here. */
export async function startNewEpochs(tx: Tx): Promise<LastTaken[]> {
  const { rows } = await tx.query<LastTaken>(
    `UPDATE peer SET out_epoch = out_epoch + 1, out_sequence = 0, out_digest = NULL
     RETURNING party, in_epoch AS epoch, in_sequence AS sequence`,
  );
  return rows;
}

/**
 * Queues again what was delivered to a peer after the last envelope that it still holds: as it was signed then.
 * @throws CountersignError `state-conflict` when some of it is kept no longer: the rest couldn't be taken without it
 */
export async function deliverAgain(q: Queryable, { party, epoch, sequence }: LastTaken): Promise<number> {
  const emptied = await q.query(
    `SELECT 1 FROM outbox WHERE receiver = $1 AND state = 'delivered' AND (epoch, sequence) > ($2, $3) AND envelope = '' LIMIT 1`,
    [party, epoch, sequence],
  );
  if (emptied.rowCount !== 0) {
    throw new CountersignError(
      "state-conflict",
      `${party} was restored from a backup that is older than envelopes are kept here (retention.messageDays)`,
    );
  }
  const { rowCount } = await q.query(
    `UPDATE outbox SET state = 'queued', delivered = NULL
     WHERE receiver = $1 AND state = 'delivered' AND (epoch, sequence) > ($2, $3)`,
    [party, epoch, sequence],
  );
  return rowCount ?? 0;
}

export interface AdoptedRevocation {
  readonly target: "device" | "ca";
  readonly subject: string;
  readonly subjectKeyId: string;
  readonly certificate: { readonly act: string; readonly serial: string };
  readonly effect: string;
  readonly reason: string;
  readonly invalidity: string | undefined;
  /** of this site's CA key that signed a child's certificate; the last one unless given */
  readonly issuerKeyId?: string | undefined;
  readonly leafHash: string;
  readonly time: Date;
}

/** Of a child's CA certificate, by the act that holds it; undefined where the database doesn't. */
export async function childCertificate(q: Queryable, leafHash: string): Promise<Uint8Array | undefined> {
  const { rows } = await q.query<{ certificate: Uint8Array }>(
    `SELECT certificate FROM delegation WHERE act_leaf_hash = $1 AND certificate IS NOT NULL
     UNION SELECT certificate FROM delegation_superseded WHERE leaf_hash = $1`,
    [leafHash],
  );
  return rows[0]?.certificate;
}

/**
 * A certificate that the ledger holds as revoked, held or no longer held. No CRL and no hub is taken to have heard of it.
 * False when the certificate isn't in the database.
 */
export async function adoptRevocation(tx: Tx, revoked: AdoptedRevocation): Promise<boolean> {
  const { target, subject, certificate, effect, leafHash, time } = revoked;
  const ordered = await tx.query(
    `UPDATE revocation SET act_leaf = $3, time = $4, error_code = NULL, error_message = NULL
     WHERE certificate_leaf = $1 AND effect = $2 AND act_leaf IS NULL`,
    [certificate.act, effect, leafHash, time],
  );
  if (ordered.rowCount === 1) return true;
  const held =
    target === "device"
      ? `SELECT certificate, issuer_key_id AS issuer FROM issuance_certificate JOIN issuance_intent USING (device, profile)
         WHERE leaf_hash = decode($1, 'hex')`
      : `SELECT certificate, (SELECT key_id FROM ca_certificate ORDER BY added DESC LIMIT 1) AS issuer FROM (
           SELECT certificate FROM delegation WHERE act_leaf_hash = $1 AND certificate IS NOT NULL
           UNION SELECT certificate FROM delegation_superseded WHERE leaf_hash = $1) d`;
  const { rowCount } = await tx.query(
    `INSERT INTO revocation (certificate_leaf, step, target, subject, subject_key_id, certificate, issuer_key_id, serial,
       effect, reason, invalidity, requested_by, act_leaf, time)
     SELECT $1, (SELECT coalesce(max(step), 0) + 1 FROM revocation WHERE certificate_leaf = $1), $2, $3, $4,
       h.certificate, coalesce($11::text, h.issuer), $5, $6, $7, $8, 'the ledger', $9, $10
     FROM (${held}) h`,
    [
      certificate.act,
      target,
      subject,
      revoked.subjectKeyId,
      certificate.serial,
      effect,
      revoked.reason,
      revoked.invalidity ?? null,
      leafHash,
      time,
      revoked.issuerKeyId ?? null,
    ],
  );
  return rowCount === 1;
}
