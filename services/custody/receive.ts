import { nodeVerify } from "../../hsm/index.ts";
import { fromBase64, toBase64, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { isKeptOut, type HandoffItem } from "../../lib/records/manifest.ts";
import { inTransaction, type Tx } from "../../store/db.ts";
import { insertDevices, lockDevices, takenSlots } from "../../store/devices.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import {
  getHandoff,
  handoffList,
  lockHandoff,
  updateHandoff,
  type Handoff,
  type HandoffState,
} from "../../store/handoffs.ts";
import { storeBlob } from "../../store/ledger.ts";
import { getLot } from "../../store/lots.ts";
import { findInbox } from "../../store/messages.ts";
import { getPeer } from "../../store/parties.ts";
import { nodeSha256 } from "../ledger/index.ts";
import { readBody } from "../parties/envelope.ts";
import { enqueue } from "../parties/outbox.ts";
import { author, openSignedAct } from "../parties/signed-act.ts";
import { handoffWorkflowId, nowOf, type CustodyContext } from "./context.ts";
import { assertList, decodeList, listPaths, listRoot, mismatch } from "./list.ts";
import { openLot } from "./lots.ts";
import { checkTerms, lotTerms } from "./terms.ts";

/** A row carries its audit path: of a whole lot at once, the statement's text would outgrow what a driver sends. */
const ROWS_A_STATEMENT = 5_000;

/**
 * Checks an offer and opens its lot here: the giver's signature under its pinned act key, the list against the signed
 * root, the lot's terms against what this site has and may do. Safe to run again.
 * @returns the state it leaves the handoff in
 * @throws CountersignError `handoff-mismatch`, `act-invalid`, `custody-conflict`, and those of opening a lot
 */
export async function acceptOffer(context: CustodyContext, id: string): Promise<HandoffState> {
  const { db, party } = context;
  const handoff = await getHandoff(db, id);
  if (handoff.direction !== "in") throw mismatch(`${id} is a release of this site`);
  if (handoff.state !== "offered") return handoff.state;
  const peer = await getPeer(db, handoff.peer);
  const { act } = await openSignedAct(handoff.releaseAct!, { type: "handoff-released", ...author(peer) }, nodeVerify);
  const { list, terms: offered } = await handoffList(db, id);
  const items = decodeList(list);
  const terms = lotTerms.safeParse(offered);
  if (!terms.success) throw mismatch("the lot's terms can't be read");
  const { fields } = act;
  if (fields.id !== id || fields.from !== peer.party || fields.to !== party || fields.lot !== terms.data.id) {
    throw mismatch("the signed release is another one than the envelope says");
  }
  if (fields.count !== items.length || fields.listRoot !== listRoot(items)) {
    throw mismatch("the list is not the one that was signed");
  }
  assertList(items, terms.data.slots);
  await checkTerms(terms.data, context.firmwareDir);
  const cause = { origin: act.origin, leafHash: handoff.releaseLeaf! };
  const known = await openedBefore(context, terms.data.id);
  if (!known) await openLot(context, { ...terms.data, builder: peer.party, issuer: party }, [cause]);
  else await openLot(context, { ...terms.data, builder: known.builder, issuer: party }, [cause]);
  await updateHandoff(db, id, { state: "open" });
  return "open";
}

async function openedBefore(context: CustodyContext, lot: string) {
  try {
    return await getLot(context.db, lot);
  } catch (error) {
    if (error instanceof CountersignError && error.code === "lot-not-found") return undefined;
    throw error;
  }
}

/**
 * Fixes what the operator found, before anything is signed: a second answer finds the first one. An answer that would
 * let in what can't come in is refused and not kept, so that the operator can answer again and keep it out.
 * @param discrepancies each a short sentence; one that begins with `<device id>: ` keeps that device out
 * @throws CountersignError `not-found`, `state-conflict` when the handoff isn't open, `custody-conflict`
 */
export async function decideReceipt(
  context: CustodyContext,
  id: string,
  discrepancies: readonly string[],
): Promise<void> {
  await inTransaction(context.db, async (tx) => {
    const handoff = await lockHandoff(tx, id);
    if (handoff.direction !== "in" || (handoff.state !== "open" && handoff.state !== "received")) {
      throw new CountersignError(
        "state-conflict",
        `the handoff ${id} is ${handoff.state}${handoff.errorMessage === null ? "" : ` (${handoff.errorMessage})`}: only an open one is received`,
      );
    }
    if (handoff.discrepancies !== null) return;
    const { list } = await handoffList(tx, id);
    await assertUnknown(tx, handoff, keptItems(decodeList(list), discrepancies));
    await updateHandoff(tx, id, { state: handoff.state, discrepancies, time: nowOf(context) });
  });
}

/**
 * Takes the devices in: the signed receipt, the devices' rows and the envelope back are one transaction.
 * @throws CountersignError `custody-conflict` when a device, key or slot of the list is here already; and what the
 *   signer, the ledger or the database throws
 */
export async function recordReceipt(context: CustodyContext, id: string): Promise<void> {
  const { db, acts, party } = context;
  const handoff = await getHandoff(db, id);
  if (handoff.state === "received") return;
  if (handoff.state !== "open" || handoff.discrepancies === null) {
    throw new CountersignError("state-conflict", `the handoff ${id} is ${handoff.state}: nobody said what arrived`);
  }
  const [lot, grant, { list }] = await Promise.all([
    getLot(db, handoff.lot),
    findCurrentGrant(db),
    handoffList(db, id),
  ]);
  const items = decodeList(list);
  const digest = nodeSha256(list);
  const { act: release } = parseEntry(handoff.releaseAct!);
  const counterpart = { origin: release.origin, leafHash: handoff.releaseLeaf! };
  const kept = keptItems(items, handoff.discrepancies);
  await inTransaction(db, (tx) => assertUnknown(tx, handoff, kept));
  await acts.recordSigned(
    {
      type: "handoff-received",
      workflowId: handoffWorkflowId(id),
      stepKey: "received",
      time: handoff.time.toISOString(),
      subject: [{ name: id, digest: { sha256: handoff.listRoot } }],
      ...(grant === undefined ? {} : { grant: grant.ref }),
      prev: [counterpart, lot.ref],
      // Beside this ledger too: what was taken in is known from it alone.
      blobs: [{ name: "list", sha256: toHex(digest), size: list.length }],
      fields: {
        id,
        lot: handoff.lot,
        from: handoff.peer,
        to: party,
        count: handoff.count,
        listRoot: handoff.listRoot,
        discrepancies: handoff.discrepancies,
        counterpart,
      },
    },
    context.actSigner,
    async (tx, act) => {
      const ref = { origin: acts.origin, leafHash: act.leafHash };
      await storeBlob(tx, digest, list);
      await takeIn(tx, handoff, items, ref);
      await updateHandoff(tx, id, { state: "received", receiptAct: act.entry, receiptLeaf: act.leafHash });
      await enqueue(tx, {
        receiver: handoff.peer,
        type: "handoff-receipt",
        retryKey: handoffWorkflowId(id) + "/receipt",
        body: { act: toBase64(act.entry) },
      });
    },
  );
}

const keptItems = (items: readonly HandoffItem[], discrepancies: readonly string[]): HandoffItem[] =>
  items.filter((item) => !isKeptOut(item.deviceId, discrepancies));

/** The act is signed once: what would stop the devices from coming in is found before. */
async function assertUnknown(tx: Tx, handoff: Handoff, kept: readonly HandoffItem[]): Promise<void> {
  const [clash] = await lockDevices(
    tx,
    kept.map((item) => item.deviceId),
    kept.map((item) => item.spkiSha256),
  );
  if (clash !== undefined) {
    throw new CountersignError(
      "custody-conflict",
      `device ${clash.id} of handoff ${handoff.id} is known here already, in lot ${clash.lot}: keep it out`,
    );
  }
  const taken = await takenSlots(
    tx,
    handoff.lot,
    kept.map((item) => item.slot),
  );
  const second = kept.find((item) => taken.has(item.slot));
  if (second === undefined) return;
  throw new CountersignError(
    "custody-conflict",
    `slot ${second.slot} of lot ${handoff.lot} is taken here already: keep device ${second.deviceId} out`,
  );
}

export async function takeIn(
  tx: Tx,
  handoff: Handoff,
  items: readonly HandoffItem[],
  received: { origin: string; leafHash: string },
): Promise<void> {
  const pathOf = listPaths(items);
  const kept = items
    .map((item, index) => ({ item, index }))
    .filter(({ item }) => !isKeptOut(item.deviceId, handoff.discrepancies!))
    // Over all chunks in the order in which every caller locks devices.
    .toSorted((a, b) => (a.item.deviceId < b.item.deviceId ? -1 : 1));
  for (let from = 0; from < kept.length; from += ROWS_A_STATEMENT) {
    const devices = kept.slice(from, from + ROWS_A_STATEMENT).map(({ item, index }) => ({
      id: item.deviceId,
      spkiSha256: item.spkiSha256,
      lot: handoff.lot,
      slot: item.slot,
      csrSha256: item.csrSha256,
      stage: "received" as const,
      handoff: handoff.id,
      prev: { ...received, listIndex: index, path: pathOf(index) },
    }));
    if ((await insertDevices(tx, devices)) < devices.length) {
      throw new CountersignError(
        "custody-conflict",
        `a device, key or slot of handoff ${handoff.id} is taken here already`,
      );
    }
  }
}

/**
 * The giver keeps the taker's signed receipt, and is out of it.
 * @param messageId of the `handoff-receipt` in the inbox
 * @throws CountersignError `not-found`, `handoff-mismatch`, `act-invalid`
 */
export async function closeRelease(context: CustodyContext, id: string, messageId: string): Promise<void> {
  const { db } = context;
  const handoff = await getHandoff(db, id);
  if (handoff.direction !== "out" || handoff.state === "closed") return;
  const message = await findInbox(db, messageId);
  if (message?.type !== "handoff-receipt" || message.sender !== handoff.peer) {
    throw new CountersignError("not-found", `there is no receipt for handoff ${id} in message ${messageId}`);
  }
  const entry = fromBase64(readBody("handoff-receipt", message.body).act);
  const peer = await getPeer(db, handoff.peer);
  const { act } = await openSignedAct(entry, { type: "handoff-received", ...author(peer) }, nodeVerify);
  const { fields } = act;
  const same =
    handoff.state === "released" &&
    fields.id === id &&
    fields.lot === handoff.lot &&
    fields.from === context.party &&
    fields.to === handoff.peer &&
    fields.count === handoff.count &&
    fields.listRoot === handoff.listRoot &&
    fields.counterpart.origin === context.acts.origin &&
    fields.counterpart.leafHash === handoff.releaseLeaf;
  if (!same) throw mismatch(`the receipt isn't one for handoff ${id}`);
  await updateHandoff(db, id, {
    state: "closed",
    discrepancies: fields.discrepancies,
    receiptAct: entry,
    receiptLeaf: Buffer.from(leafHash(entry, nodeSha256)).toString("hex"),
  });
}

/** The offer didn't hold: the reason stays with it, for the operator of either side. */
export async function refuseOffer(
  context: CustodyContext,
  id: string,
  error: { code: string; message: string },
): Promise<void> {
  await updateHandoff(context.db, id, { state: "refused", error });
}
