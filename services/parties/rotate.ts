import { setTimeout as sleep } from "node:timers/promises";
import type { CaKey } from "../../hsm/index.ts";
import { nodeVerify } from "../../hsm/index.ts";
import { fromBase64, toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { rotationFault } from "../../lib/ledger/rotation.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { grantedKey, type Grant } from "../../lib/records/grant.ts";
import type { ActRef } from "../../lib/records/primitives.ts";
import { rotationChallenge, type RotationOf } from "../../lib/records/rotation.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { rotatedCaLabel } from "../../store/authority.ts";
import { inTransaction, type Db } from "../../store/db.ts";
import { currentGrant, findCurrentGrant, rotationUnderWay, type CurrentGrant } from "../../store/grants.ts";
import { readHead } from "../../store/ledger.ts";
import {
  closeGrant,
  delegationsUnderWay,
  findRotation,
  fixEffectiveSize,
  giveUpLostKey,
  listRotations,
  queueIsPast,
  reopenGrant,
  requestRotation,
  setRotation,
  storeProofs,
} from "../../store/rotations.ts";
import type { Acts, RecordedAct } from "../ledger/acts.ts";
import type { CaToken } from "../reconcile/accounted.ts";
import { standingAct } from "./acceptance-act.ts";
import type { Identity } from "./identity.ts";
import { enqueue } from "./outbox.ts";
import { caKeyOf } from "./own-cas.ts";

/**
 * The party's own side of its CA's change of key. The new key lies in the token beside the old one, and signs nothing but
 * its own request until the grant that names it is accepted: what the CA signs with is the grant's certificate's key.
 */

export interface RotationContext {
  readonly db: Db;
  readonly identity: Identity;
  readonly acts: Acts;
  readonly caToken: CaToken;
}

const RENEWED = {
  code: "state-conflict",
  message: "its grant was renewed before the request was sent: ask for another key again",
} as const;
const DRAIN_MS = 20_000;
const LOOK_MS = 50;

/** Does this grant put another CA key in the place of the one in force? */
export const isRotation = (held: CurrentGrant, next: Grant): boolean => grantedKey(next) !== grantedKey(held.fields);

/** What an operator asks for. @throws CountersignError `grant-missing` */
export async function orderRotation(db: Db, by: string): Promise<{ supersedes: string }> {
  return inTransaction(db, async (tx) => {
    const held = await currentGrant(tx);
    const { leafHash: supersedes } = held.ref;
    await requestRotation(tx, { supersedes, label: rotatedCaLabel(held.fields.revision + 1), by });
    return { supersedes };
  });
}

interface Proven {
  readonly of: RotationOf;
  readonly proofs: { readonly old: Uint8Array; readonly new: Uint8Array };
}

/**
 * Makes the new key where it isn't there, and has both keys sign requests that name both. Once and for all: whoever asks
 * again gets the same.
 * @throws CountersignError `not-found` when nobody asked for it, and what the token throws
 */
export async function proveRotation(context: RotationContext, held: CurrentGrant): Promise<Proven> {
  const { db, identity, caToken } = context;
  const { leafHash } = held.ref;
  const asked = await findRotation(db, leafHash);
  if (asked === undefined) throw new CountersignError("not-found", "nobody asked for another CA key here");
  const present = await caKeyOf(db, caToken, parseCertificate(held.certificate).spki);
  const next = await newKey(caToken, asked.label);
  await giveUpLostKey(db, leafHash, next.spki);
  const row = (await findRotation(db, leafHash)) ?? asked;
  const of = { ...{ party: identity.party, supersedes: held.ref }, old: b64(present), new: b64(next) };
  const { oldProof, newProof } =
    row.oldProof === null || row.newProof === null
      ? await storeProofs(db, leafHash, {
          ...{ oldSpki: present.spki, newSpki: next.spki },
          oldProof: await request(present, of, identity),
          newProof: await request(next, of, identity),
        })
      : row;
  const proofs = { old: oldProof!, new: newProof! };
  const fault = await rotationFault(of, proofs, nodeVerify);
  if (fault === undefined) return { of, proofs };
  throw new CountersignError("possession-unproven", `the CA's tokens don't fit what was asked of them: ${fault}`);
}

const b64 = ({ spki }: Pick<CaKey, "spki">): string => toBase64(spki);

async function newKey(token: CaToken, label: string): Promise<CaKey> {
  return (await token.hasKey(label)) ? token.caKey(label) : token.generateCaKey({ label, algorithm: "ec-p256" });
}

function request(key: CaKey, of: RotationOf, { organization }: Identity): Promise<Uint8Array> {
  return key.signRequest({ cn: `${organization} CA`, organization, challengePassword: rotationChallenge(of) });
}

/** Queues the request to the parent, and says no to what was asked for under a grant that was renewed since. */
export async function sendRotation(context: RotationContext): Promise<void> {
  const { db } = context;
  const held = await currentGrant(db);
  for (const { supersedes, state } of await listRotations(db)) {
    if (state === "requested" && supersedes !== held.ref.leafHash) await refuseRotation(db, RENEWED, supersedes);
  }
  if ((await findRotation(db, held.ref.leafHash))?.state !== "requested") return;
  const { proofs } = await proveRotation(context, held);
  await inTransaction(db, async (tx) => {
    const row = await findRotation(tx, held.ref.leafHash);
    if (row?.state !== "requested") return;
    await enqueue(tx, {
      receiver: held.parent,
      type: "rotation",
      retryKey: `rotation/${held.ref.leafHash}/${row.attempt}`,
      body: { supersedes: held.ref, old: toBase64(proofs.old), new: toBase64(proofs.new) },
    });
    await setRotation(tx, held.ref.leafHash, { state: "sent" });
  });
}

const rotatedStep = (party: string, next: ActRef) => ({
  workflowId: `rotation/${party}`,
  stepKey: `rotated/${next.leafHash}`,
});

/**
 * The `rotated` act, before the grant that names the new key is accepted. From here on nothing more is intended under the
 * old key: what was is in the ledger, and its size is the act's. What was intended and isn't signed yet is still signed
 * by the old key, byte for byte.
 * @throws CountersignError `grant-mismatch` (another key than ours), `rotation-under-way` (tried again), and those of the
 *   token
 */
export async function recordRotation(
  context: RotationContext,
  held: CurrentGrant,
  next: { readonly ref: ActRef; readonly fields: Grant },
): Promise<RecordedAct> {
  const { db, identity, acts } = context;
  const step = rotatedStep(identity.party, next.ref);
  const recorded = await acts.find(step.workflowId, step.stepKey);
  if (recorded !== undefined) return recorded;
  const { of, proofs } = await proveRotation(context, held);
  if (of.new !== grantedKey(next.fields)) {
    throw new CountersignError("grant-mismatch", `the grant ${next.fields.id} is for another CA key than ours`);
  }
  const effectiveSize = await settle(db, held);
  return acts.recordSigned(
    {
      type: "rotated",
      ...step,
      subject: [{ name: identity.party, digest: { sha256: keyId(parseCertificate(certificateOf(next.fields)).spki) } }],
      grant: held.ref,
      prev: [{ origin: identity.origin, leafHash: await standingAct(acts, identity.party, held.ref) }, next.ref],
      fields: {
        role: "ca",
        old: { spki: of.old, proof: toBase64(proofs.old) },
        new: { spki: of.new, proof: toBase64(proofs.new) },
        grant: next.ref,
        effectiveSize,
      },
    },
    identity.act,
  );
}

const certificateOf = ({ certificate }: Grant): Uint8Array => fromBase64(certificate);

/** Has nothing begun under the old key any more, waits until what was lies in the ledger, and gives the ledger's size. */
async function settle(db: Db, held: CurrentGrant): Promise<number> {
  const { leafHash } = held.ref;
  const fixed = (await findRotation(db, leafHash))?.effectiveSize;
  if (fixed != null) return fixed;
  const old = keyId(parseCertificate(held.certificate).spki);
  // Before the way is closed, so that issuing doesn't wait for them; and after it, when no more can come.
  if ((await delegationsUnderWay(db, old)).length > 0) throw rotationUnderWay();
  const last = await inTransaction(db, (tx) => closeGrant(tx, leafHash));
  if ((await delegationsUnderWay(db, old)).length > 0) throw rotationUnderWay();
  for (const end = performance.now() + DRAIN_MS; !(await queueIsPast(db, last));) {
    if (performance.now() > end) throw rotationUnderWay();
    await sleep(LOOK_MS);
  }
  const head = await readHead(db);
  return inTransaction(db, (tx) => fixEffectiveSize(tx, leafHash, head!.size));
}

/** In a database that was restored the request is the ledger's, once the change was recorded: as it was made then. */
export async function restoreRotation(context: RotationContext, held: CurrentGrant, next: ActRef): Promise<void> {
  const { db, acts, identity } = context;
  const { leafHash: supersedes } = held.ref;
  if ((await findRotation(db, supersedes)) !== undefined) return;
  const { workflowId, stepKey } = rotatedStep(identity.party, next);
  const recorded = await acts.find(workflowId, stepKey);
  const act = recorded && parseEntry(recorded.entry).act;
  if (act?.type !== "rotated" || act.grant?.leafHash !== supersedes) return;
  const { old, new: to, effectiveSize } = act.fields;
  await inTransaction(db, async (tx) => {
    await requestRotation(tx, { supersedes, label: rotatedCaLabel(held.fields.revision + 1), by: "the ledger" });
    await storeProofs(tx, supersedes, {
      ...{ oldSpki: fromBase64(old.spki), newSpki: fromBase64(to.spki) },
      ...{ oldProof: fromBase64(old.proof), newProof: fromBase64(to.proof) },
    });
    await closeGrant(tx, supersedes);
    await fixEffectiveSize(tx, supersedes, effectiveSize);
  });
}

/** What is under way is over: with the parent's no, or ours to its answer. Issuing goes on under the key in force. */
export async function refuseRotation(
  db: Db,
  refusal: { code: string; message: string },
  supersedes: string,
): Promise<void> {
  await inTransaction(db, async (tx) => {
    await setRotation(tx, supersedes, { state: "refused", refusal });
    await reopenGrant(tx, supersedes);
  });
}

/** The same of all that wasn't sent. */
export async function refuseUnsent(db: Db, refusal: { code: string; message: string }): Promise<void> {
  for (const { supersedes, state } of await listRotations(db)) {
    if (state === "requested") await refuseRotation(db, refusal, supersedes);
  }
}

/** The same of what a grant that isn't taken was to answer: a mere renewal answers none. */
export async function refuseAnswered(db: Db, refusal: { code: string; message: string }, next: Grant): Promise<void> {
  const asked = (await listRotations(db)).find(
    ({ newSpki }) => newSpki !== null && b64({ spki: newSpki }) === grantedKey(next),
  );
  const held = await findCurrentGrant(db);
  const named = held !== undefined && isRotation(held, next) ? next.supersedes?.leafHash : undefined;
  const supersedes = asked?.supersedes ?? named;
  if (supersedes !== undefined) await refuseRotation(db, refusal, supersedes);
}
