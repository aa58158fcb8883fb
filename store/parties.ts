import { CountersignError } from "../lib/domain/errors.ts";
import type { Keyset } from "../lib/records/keyset.ts";
import type { Contact, Invitation } from "../lib/records/message.ts";
import type { ActRef } from "../lib/records/primitives.ts";
import type { Queryable, Tx } from "./db.ts";

/** This site's own published keys, the parties it knows, and the invitations it gave and took. */

export interface OwnKeyset {
  readonly keyset: Keyset;
  readonly ref: ActRef;
  readonly entry: Uint8Array;
  readonly infrastructure: Uint8Array;
  /** the CA's request that the keyset names; null at the root, whose certificate is its own proof */
  readonly request: Uint8Array | null;
}

export async function ownKeyset(q: Queryable): Promise<OwnKeyset | undefined> {
  const { rows } = await q.query<{
    keyset: Keyset;
    origin: string;
    leaf_hash: string;
    entry: Uint8Array;
    infrastructure: Uint8Array;
    request: Uint8Array | null;
  }>("SELECT keyset, origin, leaf_hash, entry, infrastructure, request FROM own_keyset");
  const row = rows[0];
  return row && { ...row, ref: { origin: row.origin, leafHash: row.leaf_hash } };
}

/** Stores the keyset that an act published; the first one stays. */
export async function storeOwnKeyset(q: Queryable, own: OwnKeyset): Promise<void> {
  await q.query(
    `INSERT INTO own_keyset (keyset, origin, leaf_hash, entry, infrastructure, request) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT DO NOTHING`,
    [JSON.stringify(own.keyset), own.ref.origin, own.ref.leafHash, own.entry, own.infrastructure, own.request],
  );
}

export interface Peer {
  readonly party: string;
  readonly direction: "parent" | "child";
  readonly contact: Contact;
  readonly actSpki: Uint8Array;
  readonly actKeyId: string;
}

interface PeerRow {
  party: string;
  direction: "parent" | "child";
  contact: Contact;
  act_spki: Uint8Array;
  act_key_id: string;
}
const PEER = "party, direction, contact, act_spki, act_key_id";

function toPeer(row: PeerRow): Peer {
  const { party, direction, contact } = row;
  return { party, direction, contact, actSpki: row.act_spki, actKeyId: row.act_key_id };
}

export async function findPeer(q: Queryable, party: string): Promise<Peer | undefined> {
  const { rows } = await q.query<PeerRow>(`SELECT ${PEER} FROM peer WHERE party = $1`, [party]);
  return rows[0] && toPeer(rows[0]);
}

/** @throws CountersignError `not-found` */
export async function getPeer(q: Queryable, party: string): Promise<Peer> {
  const peer = await findPeer(q, party);
  if (!peer) throw new CountersignError("not-found", `this site knows no party ${party}`);
  return peer;
}

export async function listPeers(q: Queryable): Promise<Peer[]> {
  const { rows } = await q.query<PeerRow>(`SELECT ${PEER} FROM peer ORDER BY party`);
  return rows.map(toPeer);
}

/** Nobody else pins a party until this transaction is over. */
export async function lockPeers(tx: Tx): Promise<void> {
  await tx.query("LOCK TABLE peer IN SHARE ROW EXCLUSIVE MODE");
}

/**
 * Pins a party's act key.
 * @throws CountersignError `state-conflict` when the party is known by another key or in another role
 */
export async function pinPeer(tx: Tx, peer: Peer): Promise<void> {
  const { rowCount } = await tx.query(
    `INSERT INTO peer (party, direction, contact, act_spki, act_key_id) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT DO NOTHING`,
    [peer.party, peer.direction, JSON.stringify(peer.contact), peer.actSpki, peer.actKeyId],
  );
  if (rowCount === 1) return;
  const known = await getPeer(tx, peer.party);
  if (known.actKeyId === peer.actKeyId && known.direction === peer.direction) return;
  throw new CountersignError("state-conflict", `the party ${peer.party} is known here by another act key or role`);
}

export interface StoredInvitation {
  readonly id: string;
  readonly party: string;
  readonly nonceSha256: string;
  readonly expires: Date;
  readonly spent: Date | null;
}

export async function storeInvitation(q: Queryable, invitation: Omit<StoredInvitation, "spent">): Promise<void> {
  const { id, party, nonceSha256, expires } = invitation;
  await q.query("INSERT INTO invitation (id, party, nonce_sha256, expires) VALUES ($1, $2, $3, $4)", [
    id,
    party,
    nonceSha256,
    expires,
  ]);
}

/** Locks the row, so that two joins can't spend one invitation. */
export async function lockInvitation(tx: Tx, id: string): Promise<StoredInvitation | undefined> {
  const { rows } = await tx.query<{
    id: string;
    party: string;
    nonce_sha256: string;
    expires: Date;
    spent: Date | null;
  }>("SELECT id, party, nonce_sha256, expires, spent FROM invitation WHERE id = $1 FOR UPDATE", [id]);
  const row = rows[0];
  return row && { ...row, nonceSha256: row.nonce_sha256 };
}

export async function spendInvitation(tx: Tx, id: string, message: string): Promise<void> {
  await tx.query("UPDATE invitation SET spent = now(), spent_by = $2 WHERE id = $1 AND spent IS NULL", [id, message]);
}

/** The invitation that this site took, and what became of it. */
export interface Enrolment {
  readonly parent: string;
  readonly invitation: Invitation;
  readonly state: "invited" | "joined" | "accepted" | "refused";
  readonly csr: Uint8Array | null;
  /** id of the inbox message that brought the grant */
  readonly delegation: string | null;
  readonly errorCode: string | null;
  readonly errorMessage: string | null;
}

const ENROLMENT = `parent, invitation, state, csr, delegation, error_code AS "errorCode", error_message AS "errorMessage"`;

export async function findEnrolment(q: Queryable, parent: string): Promise<Enrolment | undefined> {
  const { rows } = await q.query<Enrolment>(`SELECT ${ENROLMENT} FROM enrolment WHERE parent = $1`, [parent]);
  return rows[0];
}

export async function listEnrolments(q: Queryable): Promise<Enrolment[]> {
  const { rows } = await q.query<Enrolment>(`SELECT ${ENROLMENT} FROM enrolment ORDER BY created`);
  return rows;
}

/**
 * Takes an invitation. Posting the same one again changes nothing; a refused one may be followed by another.
 * @throws CountersignError `state-conflict` when another invitation is in hand
 */
export async function takeInvitation(tx: Tx, invitation: Invitation): Promise<void> {
  const parent = invitation.from.party;
  await tx.query("LOCK TABLE enrolment IN SHARE ROW EXCLUSIVE MODE");
  const other = (await listEnrolments(tx)).find((row) => row.parent !== parent && row.state !== "refused");
  if (other) throw new CountersignError("state-conflict", `this site has joined ${other.parent} already`);
  const held = await findEnrolment(tx, parent);
  if (held?.invitation.id === invitation.id) return;
  if (held && held.state !== "refused") {
    throw new CountersignError("state-conflict", `another invitation of ${parent} is in hand, state ${held.state}`);
  }
  await tx.query(
    `INSERT INTO enrolment (parent, invitation) VALUES ($1, $2)
     ON CONFLICT (parent) DO UPDATE SET invitation = excluded.invitation, state = 'invited', csr = NULL,
       delegation = NULL, error_code = NULL, error_message = NULL`,
    [parent, JSON.stringify(invitation)],
  );
}

/** Keeps the first request; gives back the one that is kept. */
export async function storeRequest(q: Queryable, parent: string, csr: Uint8Array): Promise<Uint8Array> {
  const { rows } = await q.query<{ csr: Uint8Array }>(
    "UPDATE enrolment SET csr = COALESCE(csr, $2) WHERE parent = $1 RETURNING csr",
    [parent, csr],
  );
  if (!rows[0]) throw new CountersignError("not-found", `no invitation of ${parent} is in hand`);
  return rows[0].csr;
}

/** Changes nothing when it was sent before: it may have been refused since. */
export async function joinSent(q: Queryable, parent: string): Promise<void> {
  await q.query("UPDATE enrolment SET state = 'joined' WHERE parent = $1 AND state = 'invited'", [parent]);
}

/**
 * A refused renewal leaves an accepted enrolment accepted: only the reason is kept, until a later one is accepted.
 * @param change `invitation`: nothing is changed when another one is in hand
 */
export async function setEnrolment(
  q: Queryable,
  parent: string,
  change: {
    state: Exclude<Enrolment["state"], "invited" | "joined">;
    delegation?: string;
    refusal?: { code: string; message: string };
    invitation?: string;
  },
): Promise<void> {
  await q.query(
    `UPDATE enrolment SET state = CASE WHEN state = 'accepted' THEN state ELSE $2 END,
       delegation = CASE WHEN state = 'accepted' AND $2 = 'refused' THEN delegation ELSE COALESCE($3, delegation) END,
       error_code = $4, error_message = $5
     WHERE parent = $1 AND (state <> 'accepted' OR $2 = 'accepted' OR $3::uuid IS NOT NULL)
       AND ($6::text IS NULL OR invitation->>'id' = $6)`,
    [
      parent,
      change.state,
      change.delegation ?? null,
      change.refusal?.code ?? null,
      change.refusal?.message.slice(0, 1000) ?? null,
      change.invitation ?? null,
    ],
  );
}
