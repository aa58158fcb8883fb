import { CountersignError } from "../../lib/domain/errors.ts";
import type { Db } from "../../store/db.ts";
import { noteRefusedGrant } from "../../store/delegations.ts";
import { findInbox } from "../../store/messages.ts";
import { readBody } from "./envelope.ts";

/**
 * Keeps why a child doesn't take the grant that it was sent last, for whoever asks; the grant stands as issued. Called at
 * least once a message; one about another grant than the one that is waited for has no effect.
 * @throws CountersignError `not-found`, `envelope-invalid`
 */
export async function noteRefusal(db: Db, messageId: string): Promise<void> {
  const stored = await findInbox(db, messageId);
  if (stored?.type !== "grant-refused") throw new CountersignError("not-found", `message ${messageId} is no refusal`);
  const { grant, code, message } = readBody("grant-refused", stored.body);
  await noteRefusedGrant(db, stored.sender, { leafHash: grant, message: messageId, refusal: { code, message } });
}
