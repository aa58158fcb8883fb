import { DeviceFactsIndex } from "../../../lib/ledger/device-facts.ts";
import { parseVkey } from "../../../lib/ledger/note.ts";
import { LogReader } from "../../../lib/ledger/reader.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { type DeviceFacts, type GroupQuery, matchesGroup } from "../../../lib/records/group-query.ts";
import { parseEntry } from "../../../lib/records/statement.ts";
import { nodeSha256 } from "./hash.ts";
import type { LedgerSource } from "./history.ts";

/**
 * The devices that a query describes, by what all ledgers say of them; in order of device ID. Every entry is checked
 * against its ledger's signed tree on the way. Times are the acting parties' own.
 */
export async function devicesOfGroup(sources: readonly LedgerSource[], query: GroupQuery): Promise<DeviceFacts[]> {
  const index = new DeviceFactsIndex();
  await Promise.all(
    sources.map(async ({ party, vkey, fetch }) => {
      const reader = await LogReader.open({ fetch, log: parseVkey(vkey), verify: webCryptoVerify, sha256: nodeSha256 });
      for await (const entry of reader.entries()) index.note(parseEntry(entry.bytes).act, party);
    }),
  );
  const found = [...index.devices()].filter((facts) => matchesGroup(query, facts));
  return found.toSorted((a, b) => (a.device! < b.device! ? -1 : 1));
}
