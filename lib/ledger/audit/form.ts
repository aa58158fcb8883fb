import type { AnyAct, ParsedEntry } from "../../records/statement.ts";
import { antecedents } from "./causal-order.ts";
import { refKey, type AuditState, type PartyState } from "./state.ts";

/** Two parties' clocks may differ by so much before one is said to claim a time that can't be. */
export const CLOCKS_APART_MS = 3_600_000;

/** Why the act doesn't hold whatever its type's own rules say, or undefined: whose, about what, under what, and when. */
export function formFault({ act, ...rest }: ParsedEntry, party: PartyState, state: AuditState): string | undefined {
  if (act.origin !== party.log.name || act.party !== party.id) return "it belongs to another ledger";
  // Every check looks at the one subject; a second would be claimed and looked at by nobody.
  if (act.subject.length !== 1) return "it is about more than one subject";
  const named = subjectOf(act);
  if (named !== undefined && act.subject[0]!.name !== named)
    return `its subject is ${act.subject[0]!.name}, not ${named}`;
  // One that a renewal superseded, too: what was begun under it is recorded after it.
  const grant = act.grant && state.grants.get(refKey(act.grant));
  const own = act.type === "acceptance" || !act.grant || (grant?.accepted === true && grant.fields.child === party.id);
  if (!own) return "it names a grant that isn't the one its party accepted";
  const bare = act.type === "keyset" || act.type === "ceremony" || party.id === state.rootParty;
  if (!bare && !act.grant) return "it names no grant, and only the root's party acts without one";
  const at = Date.parse(act.time);
  for (const ref of antecedents({ act, ...rest })) {
    const before = state.seen.find(ref);
    if (before >= 0 && at < state.seen.time(before) - CLOCKS_APART_MS)
      return "it claims a time before that of an act it names";
  }
  return undefined;
}

/** What the act's fields are about; undefined where the act is held against the device, or the certificate, itself. */
function subjectOf(act: AnyAct): string | undefined {
  switch (act.type) {
    case "delegation":
      return act.fields.child;
    case "lot-opened":
    case "intent":
      return act.fields.lot;
    case "handoff-released":
    case "handoff-received":
      return act.fields.id;
    case "built":
    case "attested":
    case "certified":
    case "injected":
    case "installed":
    case "revoked":
      return undefined;
    default:
      return act.party;
  }
}
