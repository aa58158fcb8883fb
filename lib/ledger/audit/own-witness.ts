import { equalBytes } from "../../domain/bytes.ts";
import { parseVkey } from "../note.ts";
import type { TlogPolicy } from "../policy.ts";
import type { AuditState } from "./state.ts";

/** A party that counted as a witness of its own log would vouch for itself: its keyset says which witness is its. */
export function checkOwnWitnesses(policies: ReadonlyMap<string, TlogPolicy>, state: AuditState): void {
  for (const { id, keyset } of state.parties.values()) {
    if (keyset === undefined) continue;
    const own = parseVkey(keyset.witness.vkey);
    for (const [name, key] of policies.get(id)?.witnesses ?? []) {
      if (!equalBytes(key.publicKey, own.publicKey)) continue;
      const message = `the policy counts the party's own witness ${name} towards its quorum`;
      state.findings.add({ severity: "error", code: "quorum-own", party: id, message });
    }
  }
}
