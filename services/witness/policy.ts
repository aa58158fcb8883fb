import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parsePolicy, type TlogPolicy } from "../../lib/ledger/policy.ts";
import { parseVkey, type NoteKey } from "../../lib/ledger/note.ts";
import type { Db } from "../../store/db.ts";
import { listPeers, type Peer } from "../../store/parties.ts";
import { witnessPrefix } from "../parties/identity.ts";

/** Which witnesses this site's log asks, and how many of them its release acts need. */
export type SitePolicy = () => Promise<TlogPolicy>;

/**
 * Reads the policy that a site is configured with (C2SP tlog-policy).
 * @throws CountersignError `policy-invalid` when it isn't for this log, or counts the log's own party as a witness
 */
export function configuredPolicy(text: string, own: { log: NoteKey; witness: NoteKey }): TlogPolicy {
  const policy = parsePolicy(text);
  const same = (a: NoteKey, b: NoteKey): boolean => equalBytes(a.publicKey, b.publicKey);
  if (!policy.logs.some((log) => log.name === own.log.name && same(log, own.log))) {
    throw new CountersignError("policy-invalid", `the witness policy doesn't name this site's log ${own.log.name}`);
  }
  for (const [name, key] of policy.witnesses) {
    if (same(key, own.witness)) {
      throw new CountersignError("policy-invalid", `the witness ${name} is this site's own: it never counts here`);
    }
    if (!URL.canParse(policy.urls.get(key) ?? "")) {
      throw new CountersignError("policy-invalid", `the witness ${name} has no URL to ask it at`);
    }
  }
  return policy;
}

/** Holds a space, as no key's name does. */
const ANY_PEER = "any peer";

/**
 * Without a policy of its own, a site asks its parent and its children, and any one of them will do. A site that knows
 * nobody has nobody to ask. What peers call their witnesses is theirs to choose: a name or key that is there already is
 * left out, and spoils nothing for the others.
 */
export function peersPolicy(db: Db, log: NoteKey): SitePolicy {
  return async () => {
    const witnesses = new Map<string, NoteKey>();
    const urls = new Map<NoteKey, string>();
    for (const { contact } of (await listPeers(db)).toSorted(parentFirst)) {
      if (contact.witness === undefined) continue;
      const key = parseVkey(contact.witness);
      const taken = [log, ...witnesses.values()].some(({ publicKey }) => equalBytes(publicKey, key.publicKey));
      if (taken || witnesses.has(key.name)) continue;
      witnesses.set(key.name, key);
      urls.set(key, witnessPrefix(contact.publicUrl));
    }
    if (witnesses.size === 0) return { logs: [log], witnesses, groups: new Map(), quorum: "none", urls };
    const groups = new Map([[ANY_PEER, { threshold: 1, members: [...witnesses.keys()] }]]);
    return { logs: [log], witnesses, groups, quorum: ANY_PEER, urls };
  };
}

const parentFirst = (a: Peer, b: Peer): number => Number(b.direction === "parent") - Number(a.direction === "parent");
