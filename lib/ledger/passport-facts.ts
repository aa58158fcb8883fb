import { CountersignError } from "../domain/errors.ts";
import type { Certificate } from "../pki/certificate.ts";
import type { DeviceFacts } from "../records/group-query.ts";
import { parseEntry } from "../records/statement.ts";
import { DeviceFactsIndex } from "./device-facts.ts";
import type { PassportVerdict } from "./passport.ts";
import { parsePassport } from "./passport-unpack.ts";

/**
 * What a device's passport says of it, for groups. A time is its party's claim, and no later than the time by which
 * witnesses had seen it logged.
 * @param verdict of `verifyPassport` on these bytes: nothing is checked here
 * @throws CountersignError `passport-invalid`
 */
export function factsOfPassport(
  bytes: Uint8Array,
  root: Certificate,
  verdict: Extract<PassportVerdict, { ok: true }>,
): DeviceFacts {
  const { device, acts, logs } = parsePassport(bytes, root.der);
  const parties = new Map(logs.map(({ origin, party }) => [origin, party]));
  const seenBy = new Map(verdict.ledgers.map(({ origin, before }) => [origin, before]));
  const index = new DeviceFactsIndex();
  for (const { origin, entry } of acts) {
    const { act } = parseEntry(entry);
    const before = seenBy.get(origin);
    const late = before !== undefined && Date.parse(before) < Date.parse(act.time);
    index.note(late ? { ...act, time: before } : act, parties.get(origin) ?? "");
  }
  for (const facts of index.devices()) if (facts.device === device.id) return facts;
  throw new CountersignError("passport-invalid", `the passport has no act of its device ${device.id}`);
}
