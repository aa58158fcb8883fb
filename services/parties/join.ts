import { timingSafeEqual } from "node:crypto";
import { equalBytes, fromBase64, toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { checkCsr, parseCsr } from "../../lib/pki/csr.ts";
import { pemDecode } from "../../lib/pki/pem.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { Body } from "../../lib/records/message.ts";
import { readHead } from "../../store/ledger.ts";
import {
  listPeers,
  lockInvitation,
  lockPeers,
  pinPeer,
  spendInvitation,
  type StoredInvitation,
} from "../../store/parties.ts";
import { storeJoin, type JoinedChild } from "../../store/delegations.ts";
import type { Tx } from "../../store/db.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import { checkKeyset } from "./keyset.ts";
import { openSignedAct } from "./signed-act.ts";

/** What a stranger's `join` has to show before this site keeps a byte of it. */

export const nonceDigest = (nonce: string): string => sha256Hex(nonce);

/**
 * The invitation must be ours, for this party, in time, unspent, and its nonce the one in the join.
 * @throws CountersignError `invitation-invalid`, `invitation-spent`
 */
export function checkInvitation(
  invitation: StoredInvitation | undefined,
  join: { sender: string; nonce: string; now: Date },
): asserts invitation is StoredInvitation {
  const sameNonce =
    invitation !== undefined &&
    timingSafeEqual(Buffer.from(invitation.nonceSha256, "hex"), Buffer.from(nonceDigest(join.nonce), "hex"));
  // One answer for every way to guess wrong.
  if (!sameNonce || invitation.party !== join.sender) {
    throw new CountersignError(
      "invitation-invalid",
      `there is no such invitation for ${join.sender}; ask for a new one`,
    );
  }
  if (invitation.spent !== null) {
    throw new CountersignError(
      "invitation-spent",
      `the invitation of ${join.sender} was used already; ask for a new one`,
    );
  }
  if (invitation.expires <= join.now) {
    const when = invitation.expires.toISOString();
    throw new CountersignError(
      "invitation-invalid",
      `the invitation of ${join.sender} expired at ${when}; ask for a new one`,
    );
  }
}

/**
 * Checks a join's request, keyset and proofs.
 * @throws CountersignError `possession-unproven`, `csr-signature-invalid`, `csr-invalid`, `key-unsupported`,
 *   `key-weak`, `act-invalid`, `envelope-invalid`
 */
export async function checkJoin(sender: string, body: Body<"join">, verify: VerifySignature): Promise<JoinedChild> {
  const refuse = (why: string): CountersignError =>
    new CountersignError("possession-unproven", `the join of ${sender} is refused: ${why}`);
  const { contact } = body;
  if (contact.party !== sender) throw refuse(`its contact is of ${contact.party}`);
  const csr = parseCsr(fromBase64(body.csr));
  await checkCsr(csr, verify);
  if (csr.challengePassword !== body.nonce) throw refuse("its request doesn't carry the invitation's nonce");
  if (csr.subjectCn === undefined) throw refuse("its request names no CN for the CA");
  const allowed = profileNamed("intermediate-embedded").keyAlgorithms;
  if (!allowed.includes(csr.keyAlgorithm)) {
    throw new CountersignError(
      "key-unsupported",
      `a CA's key is one of ${allowed.join(", ")}, not ${csr.keyAlgorithm}`,
    );
  }

  const keysetAct = await openSignedAct(
    fromBase64(body.keyset),
    { type: "keyset", party: sender, origin: contact.origin, act: fromBase64(contact.act) },
    verify,
  );
  const { keyset } = keysetAct.act.fields;
  const infrastructure = fromBase64(body.infrastructure);
  if (keyset.party !== sender) throw refuse(`its keyset is of ${keyset.party}`);
  if (keyset.act !== contact.act) throw refuse("its keyset has another act key than its contact");
  if (keyset.ca !== toBase64(csr.spki)) throw refuse("its keyset has another CA key than its request");
  if (keyset.log.origin !== contact.origin || keyset.log.vkey !== contact.vkey) {
    throw refuse("its keyset has another log than its contact");
  }
  if (contact.witness !== undefined && contact.witness !== keyset.witness.vkey) {
    throw refuse("its keyset has another witness than its contact");
  }
  const [tlsCa, more] = pemDecode(contact.tlsCa, "CERTIFICATE");
  if (tlsCa === undefined || more !== undefined || sha256Hex(tlsCa) !== sha256Hex(infrastructure)) {
    throw refuse("its TLS CA isn't its infrastructure CA");
  }
  const proof = body.earlier === undefined ? csr : parseCsr(fromBase64(body.earlier));
  if (proof !== csr) {
    await checkCsr(proof, verify);
    if (!equalBytes(proof.spki, csr.spki)) throw refuse("its earlier request is for another key");
  }
  await checkKeyset(keyset, { csr: proof.der, infrastructure }, verify);
  return {
    child: sender,
    invitation: body.invitation,
    nonceSha256: nonceDigest(body.nonce),
    csr: csr.der,
    csrSha256: sha256Hex(csr.der),
    keyset,
    keysetOrigin: keysetAct.ref.origin,
    keysetLeafHash: keysetAct.ref.leafHash,
    keysetEntry: keysetAct.entry,
    infrastructure,
  };
}

/**
 * A log's origin is its name: what witnesses have cosigned is kept under it. A party that took another's could sign in
 * its place with a key of its own, and lock it out. Nobody else pins a party until the transaction is over.
 * @throws CountersignError `possession-unproven`
 */
export async function assertOriginFree(tx: Tx, party: string, origin: string): Promise<void> {
  await lockPeers(tx);
  const others = (await listPeers(tx)).filter((peer) => peer.party !== party);
  const own = (await readHead(tx))?.origin === origin;
  const holder = own ? "this site" : others.find(({ contact }) => contact.origin === origin)?.party;
  if (holder === undefined) return;
  throw new CountersignError("possession-unproven", `${party} is refused: the log ${origin} is that of ${holder}`);
}

/** Spends the invitation, pins the child and keeps its request: all of it or nothing, with the caller's transaction. */
export async function admitChild(
  tx: Tx,
  join: { checked: JoinedChild; body: Body<"join">; message: string; now: Date },
): Promise<void> {
  const { checked, body } = join;
  const invitation = await lockInvitation(tx, body.invitation);
  checkInvitation(invitation, { sender: checked.child, nonce: body.nonce, now: join.now });
  await assertOriginFree(tx, checked.child, body.contact.origin);
  const act = fromBase64(body.contact.act);
  await pinPeer(tx, {
    party: checked.child,
    direction: "child",
    contact: body.contact,
    actSpki: act,
    actKeyId: keyId(act),
  });
  await spendInvitation(tx, invitation.id, join.message);
  await storeJoin(tx, checked);
}
