import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { formatPolicy, parsePolicy, type TlogPolicy } from "../../lib/ledger/policy.ts";
import { parseVkey, type NoteKey } from "../../lib/ledger/note.ts";
import type { Db } from "../../store/db.ts";
import { listPeers } from "../../store/parties.ts";
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

/**
 * Without a policy of its own, a site asks its parent and its children, and any one of them will do. A site that knows
 * nobody has nobody to ask.
 */
export function peersPolicy(db: Db, log: NoteKey): SitePolicy {
  return async () => {
    const urls = new Map<NoteKey, string>();
    for (const { contact } of await listPeers(db)) {
      if (contact.witness !== undefined) urls.set(parseVkey(contact.witness), witnessPrefix(contact.publicUrl));
    }
    return parsePolicy(formatPolicy(log, [...urls.keys()], "any", urls));
  };
}
