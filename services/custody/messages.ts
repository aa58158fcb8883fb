import { fromBase64, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { inTransaction } from "../../store/db.ts";
import { findHandoff, insertHandoff } from "../../store/handoffs.ts";
import { findInbox } from "../../store/messages.ts";
import { nodeSha256 } from "../ledger/index.ts";
import { readBody } from "../parties/envelope.ts";
import { nowOf, type CustodyContext } from "./context.ts";
import { encodeList, mismatch } from "./list.ts";

/** What an inbox message is about: the workflow `handoff/<handoff>` is to be started (in), or told (out). */
export interface AppliedMessage {
  readonly handoff: string;
  readonly direction: "in" | "out";
}

/**
 * Keeps a `handoff-release` as an offer, or finds the release that a `handoff-receipt` answers. Called at least once a
 * message; nothing is judged here but what names it. The envelope was authenticated by the inbox.
 * @throws CountersignError `not-found`, `handoff-mismatch`: the message has no effect
 */
export async function applyMessage(context: CustodyContext, messageId: string): Promise<AppliedMessage> {
  const message = await findInbox(context.db, messageId);
  if (message === undefined) throw new CountersignError("not-found", `there is no message ${messageId} in the inbox`);
  if (message.type === "handoff-receipt") {
    const { act } = parseEntry(fromBase64(readBody("handoff-receipt", message.body).act));
    const id = act.type === "handoff-received" ? act.fields.id : "";
    const handoff = await findHandoff(context.db, id);
    if (handoff?.direction !== "out" || handoff.peer !== message.sender) {
      throw mismatch(`${message.sender} sent a receipt for handoff ${JSON.stringify(id)}, which it wasn't offered`);
    }
    return { handoff: id, direction: "out" };
  }
  if (message.type !== "handoff-release") throw mismatch(`a ${message.type} message is no handoff`);

  const body = readBody("handoff-release", message.body);
  const entry = fromBase64(body.act);
  const { act } = parseEntry(entry);
  if (act.type !== "handoff-released") throw mismatch(`its act is a ${act.type}`);
  const { id } = act.fields;
  await inTransaction(context.db, async (tx) => {
    const inserted = await insertHandoff(tx, {
      id,
      direction: "in",
      lot: body.lot.id,
      peer: message.sender,
      state: "offered",
      count: body.items.length,
      listRoot: act.fields.listRoot,
      list: encodeList(body.items),
      terms: body.lot,
      time: nowOf(context),
      releaseAct: entry,
      releaseLeaf: toHex(leafHash(entry, nodeSha256)),
    });
    if (inserted) return;
    const known = await findHandoff(tx, id);
    if (known?.direction !== "in" || known.peer !== message.sender) {
      throw mismatch(`the id ${id} belongs to another handoff here`);
    }
  });
  return { handoff: id, direction: "in" };
}
