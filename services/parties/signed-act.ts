import { toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import { signatureAlgorithmForKey } from "../../lib/pki/algorithms.ts";
import { keyAlgorithmOf, keyId } from "../../lib/pki/spki.ts";
import type { ActType } from "../../lib/records/acts.ts";
import { verifyDsse } from "../../lib/records/dsse.ts";
import type { ActRef } from "../../lib/records/primitives.ts";
import { parseEntry, type Act } from "../../lib/records/statement.ts";
import type { Peer } from "../../store/parties.ts";

/** Whose act it has to be: a party with the act key that was pinned when the parties met. */
export function author({ party, contact, actSpki }: Peer): { party: string; origin: string; act: Uint8Array } {
  return { party, origin: contact.origin, act: actSpki };
}

export interface CheckedAct<T extends ActType> {
  readonly act: Act<T>;
  readonly ref: ActRef;
  readonly entry: Uint8Array;
}

/**
 * Reads another party's signed act and checks that it is of this type, of this party and log, and signed by the act key
 * that is pinned for it.
 * @throws CountersignError `act-invalid`, `envelope-invalid`
 */
export async function openSignedAct<T extends ActType>(
  entry: Uint8Array,
  expected: { type: T; party: string; origin: string; act: Uint8Array },
  verify: VerifySignature,
): Promise<CheckedAct<T>> {
  const { act, dsse } = parseEntry(entry);
  if (act.type !== expected.type) {
    throw new CountersignError("act-invalid", `the act is a ${act.type} one, a ${expected.type} act was expected`);
  }
  if (act.party !== expected.party || act.origin !== expected.origin) {
    throw new CountersignError("act-invalid", `the ${act.type} act is of ${act.party}, not of ${expected.party}'s log`);
  }
  const spki = expected.act;
  const key = { spki, keyId: keyId(spki), algorithm: signatureAlgorithmForKey(keyAlgorithmOf(spki)) };
  if (!dsse || !(await verifyDsse(dsse, key, verify))) {
    throw new CountersignError("act-invalid", `the ${act.type} act isn't signed by the act key of ${expected.party}`);
  }
  return { act: act as Act<T>, ref: { origin: act.origin, leafHash: toHex(leafHash(entry)) }, entry };
}
