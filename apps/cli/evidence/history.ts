import { toHex, fromBase64 } from "../../../lib/domain/bytes.ts";
import { LogReader, type FetchResource } from "../../../lib/ledger/reader.ts";
import { parseVkey } from "../../../lib/ledger/note.ts";
import { parseCertificate } from "../../../lib/pki/certificate.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { parseEntry, type AnyAct } from "../../../lib/records/statement.ts";
import { nodeSha256 } from "./hash.ts";

/** One act of a device's history, as it lies in a party's ledger. */
export interface HistoryEvent {
  readonly party: string;
  readonly index: number;
  readonly leafHash: string;
  readonly act: AnyAct;
}

export interface LedgerSource {
  readonly party: string;
  readonly vkey: string;
  readonly fetch: FetchResource;
}

/**
 * All acts about one device, found by device ID or by its certificate's serial number, in the order of custody.
 * Every entry is checked against its ledger's signed tree on the way.
 */
export async function deviceHistory(sources: readonly LedgerSource[], wanted: string): Promise<HistoryEvent[]> {
  const serial = /^[0-9a-fA-F:]{2,60}$/.test(wanted)
    ? wanted
        .replaceAll(":", "")
        .toLowerCase()
        .replace(/^(?:00)+/, "")
    : undefined;
  const events: HistoryEvent[] = [];
  const lists = new Map<string, HistoryEvent>();
  let device = wanted;
  const logs = await Promise.all(
    sources.map(async ({ party, vkey, fetch }) => ({
      party,
      reader: await LogReader.open({ fetch, log: parseVkey(vkey), verify: webCryptoVerify, sha256: nodeSha256 }),
    })),
  );
  const bySubject = new Map<string, HistoryEvent[]>();
  for (const { party, reader } of logs) {
    for await (const entry of reader.entries()) {
      const { act } = parseEntry(entry.bytes);
      const event: HistoryEvent = { party, index: entry.index, leafHash: toHex(entry.leafHash), act };
      if (act.type === "handoff-released" || act.type === "handoff-received") lists.set(event.leafHash, event);
      if (!("slot" in act.fields) && act.type !== "revoked") continue;
      const name = act.subject[0]!.name;
      if (act.type === "certified" && serial && parseCertificate(fromBase64(act.fields.certificate)).serial === serial)
        device = name;
      if (name !== wanted && !serial) continue;
      bySubject.set(name, [...(bySubject.get(name) ?? []), event]);
    }
  }
  events.push(...(bySubject.get(device) ?? []));
  return inCustodyOrder(events, lists);
}

/** Follows `prev` through the handoffs' lists; the receipt names its release. */
function inCustodyOrder(events: readonly HistoryEvent[], lists: ReadonlyMap<string, HistoryEvent>): HistoryEvent[] {
  const found = new Map(events.map((event) => [event.leafHash, event]));
  for (const event of events) {
    for (const { leafHash } of event.act.prev) {
      const received = lists.get(leafHash);
      if (!received) continue;
      found.set(leafHash, received);
      if (received.act.type !== "handoff-received") continue;
      const released = lists.get(received.act.fields.counterpart.leafHash);
      if (released) found.set(released.leafHash, released);
    }
  }
  const rank: Record<string, number> = {
    built: 0,
    "handoff-released": 1,
    "handoff-received": 2,
    attested: 3,
    certified: 4,
    injected: 5,
    installed: 6,
    revoked: 7,
  };
  return [...found.values()].sort((a, b) => (rank[a.act.type] ?? 9) - (rank[b.act.type] ?? 9) || a.index - b.index);
}
