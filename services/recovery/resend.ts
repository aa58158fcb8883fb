import { CountersignError } from "../../lib/domain/errors.ts";
import type { Db } from "../../store/db.ts";
import { findInbox, OUTBOX_CHANNEL } from "../../store/messages.ts";
import { deliverAgain } from "../../store/recovery.ts";
import { readBody } from "../parties/envelope.ts";

/**
 * A peer was restored from a backup and has forgotten what it was sent since: its envelopes go out again, in their old
 * order and under their old signatures. The peer takes each once.
 * @throws CountersignError `not-found`, `envelope-invalid`
 */
export async function sendAgain(db: Db, messageId: string): Promise<void> {
  const message = await findInbox(db, messageId);
  if (message?.type !== "recovered") throw new CountersignError("not-found", `message ${messageId} is no recovery`);
  const { received } = readBody("recovered", message.body);
  await deliverAgain(db, { party: message.sender, ...received });
  await db.query(`NOTIFY ${OUTBOX_CHANNEL}`);
}
