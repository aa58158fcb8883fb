import { toBase64, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { inTransaction } from "../../store/db.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import {
  claimForHandoff,
  findHandoff,
  getHandoff,
  handoffList,
  insertHandoff,
  lockReleasable,
  type HandoffState,
  updateHandoff,
} from "../../store/handoffs.ts";
import { storeBlob } from "../../store/ledger.ts";
import { getLot, lockOpenLot } from "../../store/lots.ts";
import { getPeer } from "../../store/parties.ts";
import { nodeSha256 } from "../ledger/index.ts";
import { enqueue } from "../parties/outbox.ts";
import { handoffWorkflowId, nowOf, type CustodyContext } from "./context.ts";
import { decodeList, encodeList, listRoot } from "./list.ts";
import { lotTerms, type LotTerms } from "./terms.ts";

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
    const { slots, profile, layouts } = lot;
    const terms: LotTerms = lotTerms.parse({ id: lotId, slots, profile, layouts });
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
 * Signs the release and sends it with its list, all in one with the ledger's entry. Safe to run again.
 * @returns the state it leaves the handoff in
 * @throws CountersignError `not-found`, and what the signer, the ledger or the database throws
 */
export async function recordRelease(context: CustodyContext, id: string): Promise<HandoffState> {
  const { db, acts, party } = context;
  const handoff = await getHandoff(db, id);
  if (handoff.direction !== "out") throw new CountersignError("state-conflict", `the handoff ${id} is not a release`);
  if (handoff.state !== "releasing") return handoff.state;
  const [lot, grant, { list, terms }] = await Promise.all([
    getLot(db, handoff.lot),
    findCurrentGrant(db),
    handoffList(db, id),
  ]);
  const digest = nodeSha256(list);
  await acts.recordSigned(
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
    async (tx, act) => {
      await storeBlob(tx, digest, list);
      await updateHandoff(tx, id, { state: "released", releaseAct: act.entry, releaseLeaf: act.leafHash });
      await enqueue(tx, {
        receiver: handoff.peer,
        type: "handoff-release",
        retryKey: handoffWorkflowId(id) + "/release",
        body: { act: toBase64(act.entry), lot: lotTerms.parse(terms), items: decodeList(list) },
      });
    },
  );
  return "released";
}
