import { toBase64, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import { inTransaction } from "../../store/db.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import {
  claimForHandoff,
  findHandoff,
  getHandoff,
  handoffList,
  insertHandoff,
  lockHandoff,
  lockReleasable,
  type Handoff,
  type HandoffState,
  updateHandoff,
} from "../../store/handoffs.ts";
import { storeBlob } from "../../store/ledger.ts";
import { getLot, lockOpenLot } from "../../store/lots.ts";
import { getPeer } from "../../store/parties.ts";
import type { RecordedAct } from "../ledger/acts.ts";
import { nodeSha256 } from "../ledger/index.ts";
import { enqueue } from "../parties/outbox.ts";
import { actCosigned } from "../witness/release.ts";
import { handoffWorkflowId, nowOf, type CustodyContext } from "./context.ts";
import { decodeList, encodeList, listRoot } from "./list.ts";
import { lotTerms, termsOf } from "./terms.ts";

/**
 * Takes everything in hand and uncertified of a lot out of this site's hands and fixes the list. From this commit on the
 * site neither certifies nor installs these devices, whatever becomes of the rest.
 * @throws CountersignError `lot-not-found`, `lot-not-open`, `not-found` (no such party), `state-conflict` when there is
 *   nothing to release
 */
export async function claimRelease(
  context: CustodyContext,
  request: { id: string; lot: string; to: string },
): Promise<void> {
  const { id, lot: lotId, to } = request;
  await getPeer(context.db, to);
  await inTransaction(context.db, async (tx) => {
    if ((await findHandoff(tx, id)) !== undefined) return;
    const lot = await lockOpenLot(tx, lotId);
    if (lot.issuer !== to) {
      throw new CountersignError(
        "custody-conflict",
        `lot ${lotId} is certified by ${lot.issuer}: hand it to them, not to ${to}`,
      );
    }
    const items = await lockReleasable(tx, lotId);
    if (items.length === 0) {
      throw new CountersignError("state-conflict", `lot ${lotId} has no device in hand to release: build some first`);
    }
    const terms = termsOf(lot);
    const list = encodeList(items);
    const inserted = await insertHandoff(tx, {
      id,
      direction: "out",
      lot: lotId,
      peer: to,
      state: "releasing",
      count: items.length,
      listRoot: listRoot(items),
      list,
      terms,
      time: nowOf(context),
    });
    // A second attempt at once waited for the first one's commit here.
    if (!inserted) throw new CountersignError("state-conflict", `the handoff ${id} is being released`);
    await claimForHandoff(
      tx,
      id,
      items.map((item) => item.deviceId),
    );
  });
}

/**
 * Signs the release, waits until a quorum of witnesses has cosigned a checkpoint that holds it, and only then sends it
 * with its list: nobody takes devices on the word of a history that the giver could still exchange. Safe to run again.
 * @returns the state it leaves the handoff in
 * @throws CountersignError `not-found`, `witnesses-missing` (the release is signed and waits), and what the signer, the
 *   ledger or the database throws
 */
export async function recordRelease(context: CustodyContext, id: string): Promise<HandoffState> {
  const { db } = context;
  const handoff = await getHandoff(db, id);
  if (handoff.direction !== "out") throw new CountersignError("state-conflict", `the handoff ${id} is not a release`);
  if (handoff.state !== "releasing") return handoff.state;
  const { list, terms } = await handoffList(db, id);
  const act = await signRelease(context, handoff, list);
  await assertCosigned(context, id, act);
  await inTransaction(db, async (tx) => {
    // Another attempt may have come first: its state stands.
    if ((await lockHandoff(tx, id)).state !== "releasing") return;
    await updateHandoff(tx, id, { state: "released", releaseAct: act.entry, releaseLeaf: act.leafHash });
    await enqueue(tx, {
      receiver: handoff.peer,
      type: "handoff-release",
      retryKey: handoffWorkflowId(id) + "/release",
      body: { act: toBase64(act.entry), lot: lotTerms.parse(terms), items: decodeList(list) },
    });
  });
  return (await getHandoff(db, id)).state;
}

async function signRelease(context: CustodyContext, handoff: Handoff, list: Uint8Array): Promise<RecordedAct> {
  const { db, acts, party } = context;
  const { id } = handoff;
  const [lot, grant] = await Promise.all([getLot(db, handoff.lot), findCurrentGrant(db)]);
  const digest = nodeSha256(list);
  return acts.recordSigned(
    {
      type: "handoff-released",
      workflowId: handoffWorkflowId(id),
      stepKey: "released",
      time: handoff.time.toISOString(),
      subject: [{ name: id, digest: { sha256: handoff.listRoot } }],
      ...(grant === undefined ? {} : { grant: grant.ref }),
      prev: [lot.ref],
      blobs: [{ name: "list", sha256: toHex(digest), size: list.length }],
      fields: {
        id,
        lot: handoff.lot,
        from: party,
        to: handoff.peer,
        count: handoff.count,
        listRoot: handoff.listRoot,
        discrepancies: [],
      },
    },
    context.actSigner,
    (tx) => storeBlob(tx, digest, list),
  );
}

/** What it waits for stands in the handoff meanwhile, for the operator. */
async function assertCosigned(context: CustodyContext, id: string, act: RecordedAct): Promise<void> {
  if (context.cosigned === undefined) return;
  try {
    await actCosigned(context.db, context.cosigned, act.leafHash);
  } catch (error) {
    const code = errorCodeOf(error);
    if (code === "witnesses-missing") {
      await updateHandoff(context.db, id, { state: "releasing", error: { code, message: (error as Error).message } });
    }
    throw error;
  }
}
