import { fromBase64 } from "../../lib/domain/bytes.ts";
import { isCountersignError } from "../../lib/domain/errors.ts";
import type { MessageType } from "../../lib/records/message.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { findInbox } from "../../store/messages.ts";
import type { MessageHandlers } from "../parties/applier.ts";
import { readBody } from "../parties/envelope.ts";
import type { ReconcileContext } from "./context.ts";
import { checkSeen } from "./seen.ts";

/**
 * The handlers, with the certificates that a message carries held against this site's ledger first. The alarm is the
 * only consequence: what the message is worth is for its handler to judge.
 */
export function watchInbox(handlers: MessageHandlers, context: ReconcileContext): MessageHandlers {
  const watched = (type: MessageType) => async (message: Parameters<NonNullable<MessageHandlers[MessageType]>>[0]) => {
    await checkMessage(context, message.id);
    await handlers[type]?.(message);
  };
  return { ...handlers, join: watched("join"), delegation: watched("delegation") };
}

/** @throws what the database or the act's signer throws: the message is tried again */
export async function checkMessage(context: ReconcileContext, id: string): Promise<void> {
  const message = await findInbox(context.db, id);
  if (message === undefined) return;
  for (const certificate of carried(message.type, message.body)) {
    try {
      await checkSeen(context, [certificate]);
    } catch (error) {
      // What can't be read as a certificate is none of ours.
      if (!isCountersignError(error) || error.kind !== "invalid") throw error;
    }
  }
}

/** DER */
function carried(type: MessageType, body: Uint8Array): Uint8Array[] {
  if (type === "join") return [fromBase64(readBody("join", body).infrastructure)];
  if (type !== "delegation") return [];
  const { act: entry, upstream } = readBody("delegation", body);
  return [...granted(fromBase64(entry)), ...upstream.map((text) => fromBase64(text))];
}

function granted(entry: Uint8Array): Uint8Array[] {
  try {
    const { act } = parseEntry(entry);
    return act.type === "delegation" ? [fromBase64(act.fields.certificate)] : [];
  } catch {
    return [];
  }
}
