import { toHex } from "../../domain/bytes.ts";
import { CountersignError } from "../../domain/errors.ts";
import type { Policy } from "../../records/policy.ts";
import { parsePolicy, type TlogPolicy } from "../policy.ts";
import { Devices } from "./devices.ts";
import { NameTable } from "./packed/name-table.ts";
import { ProvenTrees } from "./proven-trees.ts";
import { SeenActs } from "./seen-acts.ts";
import type { AuditState, PartyState } from "./state.ts";

/**
 * Reads what the policy pins for each party. No two parties share a log: what one of them signs would count as both's.
 * @throws CountersignError `policy-invalid`
 */
export function partyPolicies(policy: Policy): Map<string, TlogPolicy> {
  const policies = new Map(Object.entries(policy.logs).map(([party, text]) => [party, parsePolicy(text)]));
  const owners = new Map<string, string>();
  for (const [party, { logs }] of policies) {
    if (logs.length === 0) throw new CountersignError("policy-invalid", `the policy for ${party} names no log`);
    for (const { name, publicKey } of logs) {
      for (const pinned of [`origin ${name}`, `key ${toHex(publicKey)}`]) {
        const owner = owners.get(pinned) ?? party;
        if (owner !== party) {
          throw new CountersignError(
            "policy-invalid",
            `the policy pins one log ${pinned} for ${owner} and for ${party}`,
          );
        }
        owners.set(pinned, party);
      }
    }
  }
  return policies;
}

/** An audit before its first act. */
export function beginAudit(
  from: Pick<AuditState, "root" | "verify" | "sha256" | "findings" | "everyBlob" | "rootAt" | "blob">,
  policies: ReadonlyMap<string, TlogPolicy>,
): AuditState {
  const parties = new Map<string, PartyState>();
  const byOrigin = new Map<string, PartyState>();
  for (const [id, { logs }] of policies) {
    const party: PartyState = { id, log: logs[0]!, chain: [], rotations: [], delegated: 0, certified: 0 };
    parties.set(id, party);
    byOrigin.set(party.log.name, party);
  }
  return {
    ...from,
    trees: new ProvenTrees(from.sha256),
    parties,
    byOrigin,
    seen: new SeenActs(),
    grants: new Map(),
    intents: new Map(),
    lots: new Map(),
    devices: new Devices(),
    handoffs: new Map(),
    handoffList: [],
    revocations: new Map(),
    serials: new NameTable(),
    hubs: [],
  };
}
