import { fromBase64 } from "../../domain/bytes.ts";
import { grantedKey } from "../../records/grant.ts";
import type { ActRef } from "../../records/primitives.ts";
import { rotatedFault } from "../rotation.ts";
import { refKey, wrong, type AuditState, type GrantState, type PartyState, type Placed } from "./state.ts";

/** Which CA key a party signs under, and since when: its keyset's, until it changes it with the proofs of both. */

/** SPKI, base64, of the key that the party signs under now. */
export const presentKey = (party: PartyState): string | undefined => party.rotations.at(-1)?.to ?? party.keyset?.ca;

/** SPKI, DER, of the certificate's CA key and of those that it took the place of: each of them is the party's to answer for. */
export function caKeysOf({ chain, rotations }: PartyState): Uint8Array[] {
  const [present] = chain;
  const keys = present === undefined ? [] : [present.spki];
  return [...keys, ...rotations.flatMap(({ from, to }) => [from, to]).map(fromBase64)];
}

export async function onRotated(at: Placed<"rotated">, party: PartyState, state: AuditState): Promise<void> {
  const { fields, grant: under } = at.act;
  const invalid = (why: string): void => wrong(state, at, "rotation-invalid", why);
  const own = party.grant;
  const next = state.grants.get(refKey(fields.grant));
  if (own === undefined || under === undefined || refKey(under) !== refKey(own.ref)) {
    return invalid("it isn't under the grant in force");
  }
  if (next?.fields.child !== party.id || next.fields.supersedes === undefined) {
    return invalid("it names no grant to this party that takes the present one's place");
  }
  if (refKey(placeOf(next, state)!) !== refKey(own.ref)) return invalid("its grant takes another one's place");
  if (fields.old.spki !== presentKey(party)) return invalid("the old key is not the party's CA key");
  if (fields.new.spki !== grantedKey(next.fields)) return invalid("the new key is not the one that its grant names");
  if (isFormer(fields.new.spki, party)) return invalid("the new key was given up before");
  const fault = await rotatedFault(fields, { party: party.id, supersedes: own.ref }, state.verify);
  if (fault !== undefined) return invalid(fault);
  if (fields.effectiveSize > at.index) return invalid("its effective size lies after itself");
  if (party.lastIntent !== undefined && party.lastIntent >= fields.effectiveSize) {
    return invalid(`entry ${party.lastIntent} intends certificates under the old key, after its effective size`);
  }
  const { old, effectiveSize } = fields;
  party.rotations.push({ from: old.spki, to: fields.new.spki, effectiveSize, grant: next.ref });
}

/**
 * The grant in whose place this one comes: the one that it supersedes, or the one in whose place that was to come, where
 * that was for a key of its own and never accepted. At most one of such a row is: the first is none for what follows it.
 */
export function placeOf({ fields }: GrantState, state: AuditState): ActRef | undefined {
  let { supersedes } = fields;
  let key = grantedKey(fields);
  for (;;) {
    const before = supersedes && state.grants.get(refKey(supersedes));
    if (before?.accepted !== false || before.fields.supersedes === undefined) return supersedes;
    if (grantedKey(before.fields) === key) return supersedes;
    key = grantedKey(before.fields);
    supersedes = before.fields.supersedes;
  }
}

function isFormer(key: string, { rotations, keyset }: PartyState): boolean {
  return key === keyset?.ca || rotations.some(({ from }) => from === key);
}

/** Why an intent at this place isn't under the CA key of that time; undefined when it is. */
export function intentKeyFault(grant: GrantState | undefined, party: PartyState): string | undefined {
  const last = party.rotations.at(-1);
  if (grant === undefined || last === undefined || grantedKey(grant.fields) === last.to) return undefined;
  return `it intends certificates under a CA key that was given up at size ${last.effectiveSize}`;
}

/** Why a grant can't be accepted now: its key is neither the keyset's nor one that the party has changed to for it. */
export function acceptedKeyFault(grant: GrantState, party: PartyState): string | undefined {
  const key = grantedKey(grant.fields);
  if (key !== presentKey(party)) return "the grant is for a CA key that the party hasn't shown to be its own";
  const last = party.rotations.at(-1);
  const pending = last !== undefined && party.grant !== undefined && grantedKey(party.grant.fields) !== last.to;
  if (pending && refKey(last.grant) !== refKey(grant.ref)) return "the party changed its CA key for another grant";
  return undefined;
}
