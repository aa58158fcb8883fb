import { nodeVerify } from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { signatureAlgorithmForKey } from "../../lib/pki/algorithms.ts";
import { keyAlgorithmOf } from "../../lib/pki/spki.ts";
import type { ActType } from "../../lib/records/acts.ts";
import { verifyDsse } from "../../lib/records/dsse.ts";
import { parseEntry, type Act } from "../../lib/records/statement.ts";
import type { Peer } from "../../store/parties.ts";

/**
 * Another party's signed act, by the act key that was pinned when the parties met.
 * @throws CountersignError `act-invalid`, `envelope-invalid`
 */
export async function verifyAct<T extends ActType>(entry: Uint8Array, peer: Peer, type: T): Promise<{ act: Act<T> }> {
  const { act, dsse } = parseEntry(entry);
  const key = {
    spki: peer.actSpki,
    keyId: peer.actKeyId,
    algorithm: signatureAlgorithmForKey(keyAlgorithmOf(peer.actSpki)),
  };
  const ours = act.type === type && act.party === peer.party && act.origin === peer.contact.origin;
  if (!ours || dsse === undefined || !(await verifyDsse(dsse, key, nodeVerify))) {
    throw new CountersignError("act-invalid", `this isn't a ${type} act that ${peer.party} signed`);
  }
  return { act: act as unknown as Act<T> };
}
