import type { MessageType } from "../lib/records/message.ts";
import type { Queryable, Tx } from "./db.ts";

/** Outbox and inbox. Numbering and signing are the outbox service's; here are the locks that keep one order a pair. */

export const OUTBOX_CHANNEL = "outbox_queued";
export const INBOX_CHANNEL = "inbox_stored";

export interface QueuedMessage {
  readonly id: string;
  readonly receiver: string;
  readonly type: MessageType;
  readonly inReplyTo: string | null;
  readonly body: Uint8Array;
  readonly bodySha256: string;
  /** null until the outbox has numbered and signed it */
  readonly sequence: number | null;
  readonly epoch: number | null;
  readonly envelope: Uint8Array | null;
  readonly envelopeSha256: string | null;
}

/**
 * Queues a message in the caller's transaction: it is sent if and only if that commits. The same retry key again
 * changes nothing.
 */
export async function queueMessage(
  tx: Queryable,
  message: {
    id: string;
    receiver: string;
    type: MessageType;
    retryKey: string;
    inReplyTo?: string;
    body: Uint8Array;
    bodySha256: string;
  },
): Promise<void> {
  await tx.query(
    `INSERT INTO outbox (id, receiver, type, retry_key, in_reply_to, body, body_sha256)
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (retry_key) DO NOTHING`,
    [
      message.id,
      message.receiver,
      message.type,
      message.retryKey,
      message.inReplyTo ?? null,
      message.body,
      message.bodySha256,
    ],
  );
  await tx.query(`NOTIFY ${OUTBOX_CHANNEL}`);
}

export async function receiversWithMail(q: Queryable): Promise<string[]> {
  const { rows } = await q.query<{ receiver: string }>("SELECT DISTINCT receiver FROM outbox WHERE state = 'queued'");
  return rows.map((row) => row.receiver);
}

/** The next one to deliver: a signed one first (its number is taken), else the oldest. */
export async function nextMessage(q: Queryable, receiver: string): Promise<QueuedMessage | undefined> {
  const { rows } = await q.query<QueuedMessage>(
    `SELECT id, receiver, type, in_reply_to AS "inReplyTo", body, body_sha256 AS "bodySha256", sequence, epoch, envelope,
       envelope_sha256 AS "envelopeSha256"
     FROM outbox WHERE receiver = $1 AND state = 'queued' ORDER BY epoch NULLS LAST, sequence, ordinal LIMIT 1`,
    [receiver],
  );
  return rows[0];
}

export interface OutPosition {
  readonly epoch: number;
  readonly sequence: number;
  readonly digest: string | null;
}

/** The last number used towards a peer. */
export async function outPosition(q: Queryable, receiver: string): Promise<OutPosition> {
  const { rows } = await q.query<OutPosition>(
    "SELECT out_epoch AS epoch, out_sequence AS sequence, out_digest AS digest FROM peer WHERE party = $1",
    [receiver],
  );
  const row = rows[0];
  if (!row) throw new Error(`no peer ${receiver}`);
  return row;
}

/**
 * Keeps the signed envelope under its number. False when another process was faster: then nothing was stored and the
 * envelope must not be sent.
 */
export async function storeEnvelope(
  tx: Tx,
  message: { id: string; receiver: string; epoch: number; sequence: number; envelope: Uint8Array; sha256: string },
): Promise<boolean> {
  const position = await tx.query<{ free: boolean }>(
    "SELECT out_epoch = $2 AND out_sequence = $3 - 1 AS free FROM peer WHERE party = $1 FOR UPDATE",
    [message.receiver, message.epoch, message.sequence],
  );
  if (!position.rows[0]?.free) return false;
  const { rowCount } = await tx.query(
    `UPDATE outbox SET epoch = $2, sequence = $3, envelope = $4, envelope_sha256 = $5
     WHERE id = $1 AND state = 'queued' AND envelope IS NULL`,
    [message.id, message.epoch, message.sequence, message.envelope, message.sha256],
  );
  if (rowCount !== 1) return false;
  await tx.query("UPDATE peer SET out_sequence = $2, out_digest = $3 WHERE party = $1", [
    message.receiver,
    message.sequence,
    message.sha256,
  ]);
  return true;
}

export async function markDelivered(q: Queryable, id: string): Promise<void> {
  await q.query("UPDATE outbox SET state = 'delivered', delivered = now() WHERE id = $1 AND state = 'queued'", [id]);
}

/**
 * The receiver said no and kept nothing: the number goes back, for the next message. With `again` the message stays
 * queued and is numbered and signed anew (its envelope was too old).
 */
export async function returnNumber(
  tx: Tx,
  id: string,
  outcome: { again: true } | { code: string; message: string },
): Promise<void> {
  const { rows } = await tx.query<{ receiver: string; epoch: number; sequence: number }>(
    "SELECT receiver, epoch, sequence FROM outbox WHERE id = $1 AND state = 'queued' AND envelope IS NOT NULL FOR UPDATE",
    [id],
  );
  const row = rows[0];
  if (!row) return;
  await tx.query(
    `UPDATE peer SET out_sequence = $2 - 1, out_digest = (
       SELECT envelope_sha256 FROM outbox
       WHERE receiver = $1 AND epoch = $3 AND sequence = $2 - 1 AND state = 'delivered')
     WHERE party = $1 AND out_epoch = $3 AND out_sequence = $2`,
    [row.receiver, row.sequence, row.epoch],
  );
  if ("again" in outcome) {
    await tx.query(
      "UPDATE outbox SET epoch = NULL, sequence = NULL, envelope = NULL, envelope_sha256 = NULL WHERE id = $1",
      [id],
    );
  } else {
    await tx.query("UPDATE outbox SET state = 'refused', error_code = $2, error_message = $3 WHERE id = $1", [
      id,
      outcome.code,
      outcome.message.slice(0, 1000),
    ]);
  }
}

export interface InPosition extends OutPosition {}

/** Locks the sender's numbering for the rest of the transaction. */
export async function lockInPosition(tx: Tx, sender: string): Promise<InPosition | undefined> {
  const { rows } = await tx.query<InPosition>(
    "SELECT in_epoch AS epoch, in_sequence AS sequence, in_digest AS digest FROM peer WHERE party = $1 FOR UPDATE",
    [sender],
  );
  return rows[0];
}

export interface InboxMessage {
  readonly id: string;
  readonly sender: string;
  readonly epoch: number;
  readonly sequence: number;
  readonly type: MessageType;
  readonly inReplyTo: string | null;
  readonly envelope: Uint8Array;
  readonly envelopeSha256: string;
  readonly body: Uint8Array;
}

const INBOX = `id, sender, epoch, sequence, type, in_reply_to AS "inReplyTo", envelope,
  envelope_sha256 AS "envelopeSha256", body`;

/** Takes an envelope's number and keeps it, in the caller's transaction. */
export async function storeInbox(tx: Tx, message: InboxMessage): Promise<void> {
  await tx.query(
    `INSERT INTO inbox (sender, epoch, sequence, id, type, in_reply_to, envelope, envelope_sha256, body)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [
      message.sender,
      message.epoch,
      message.sequence,
      message.id,
      message.type,
      message.inReplyTo,
      message.envelope,
      message.envelopeSha256,
      message.body,
    ],
  );
  await moveInPosition(tx, message.sender, { ...message, digest: message.envelopeSha256 });
  await tx.query(`NOTIFY ${INBOX_CHANNEL}`);
}

export async function moveInPosition(tx: Tx, sender: string, { epoch, sequence, digest }: InPosition): Promise<void> {
  await tx.query("UPDATE peer SET in_epoch = $2, in_sequence = $3, in_digest = $4 WHERE party = $1", [
    sender,
    epoch,
    sequence,
    digest,
  ]);
}

export async function findInboxByNumber(
  q: Queryable,
  sender: string,
  epoch: number,
  sequence: number,
): Promise<{ id: string; envelopeSha256: string } | undefined> {
  const { rows } = await q.query<{ id: string; envelopeSha256: string }>(
    `SELECT id, envelope_sha256 AS "envelopeSha256" FROM inbox WHERE sender = $1 AND epoch = $2 AND sequence = $3`,
    [sender, epoch, sequence],
  );
  return rows[0];
}

export async function findInbox(q: Queryable, id: string): Promise<InboxMessage | undefined> {
  const { rows } = await q.query<InboxMessage>(`SELECT ${INBOX} FROM inbox WHERE id = $1`, [id]);
  return rows[0];
}

export type UnappliedMessage = Omit<InboxMessage, "envelope" | "body">;

/** What the receiver's workflows don't have yet, each sender's in its order. Bodies stay where they are. */
export async function unappliedInbox(
  q: Queryable,
  limit: number,
  /** senders whose messages wait */
  held: readonly string[] = [],
): Promise<UnappliedMessage[]> {
  const { rows } = await q.query<UnappliedMessage>(
    `SELECT id, sender, epoch, sequence, type, in_reply_to AS "inReplyTo", envelope_sha256 AS "envelopeSha256"
     FROM inbox WHERE applied IS NULL AND sender <> ALL($2) ORDER BY epoch, sequence, received LIMIT $1`,
    [limit, held],
  );
  return rows;
}

export async function markApplied(q: Queryable, id: string, errorCode?: string): Promise<void> {
  await q.query("UPDATE inbox SET applied = now(), error_code = $2 WHERE id = $1 AND applied IS NULL", [
    id,
    errorCode ?? null,
  ]);
}
