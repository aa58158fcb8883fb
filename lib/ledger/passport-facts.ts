import type { Certificate } from "../pki/certificate.ts";
import type { DeviceFacts } from "../records/group-query.ts";
import { parseEntry } from "../records/statement.ts";
import { DeviceFactsIndex } from "./device-facts.ts";
import { parsePassport } from "./passport-unpack.ts";

/**
 * What a device's passport says of it, for groups. Call it with one that `verifyPassport` has said yes to: nothing is
 * checked here.
 * @throws CountersignError `passport-invalid`
 */
export function factsOfPassport(bytes: Uint8Array, root: Certificate): DeviceFacts {
  const { device, acts, logs } = parsePassport(bytes, root.der);
  const parties = new Map(logs.map(({ origin, party }) => [origin, party]));
  const index = new DeviceFactsIndex();
  for (const { origin, entry } of acts) index.note(parseEntry(entry).act, parties.get(origin) ?? "");
  for (const facts of index.devices()) if (facts.device === device.id) return facts;
  return { device: device.id };
}
