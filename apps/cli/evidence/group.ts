import { fromBase64 } from "../../../lib/domain/bytes.ts";
import { parseVkey } from "../../../lib/ledger/note.ts";
import { LogReader } from "../../../lib/ledger/reader.ts";
import { parseCertificate } from "../../../lib/pki/certificate.ts";
import { webCryptoVerify } from "../../../lib/pki/verify.ts";
import { type DeviceFacts, type GroupQuery, matchesGroup } from "../../../lib/records/group-query.ts";
import { type AnyAct, parseEntry } from "../../../lib/records/statement.ts";
import { nodeSha256 } from "./hash.ts";
import type { LedgerSource } from "./history.ts";

type Known = { -readonly [F in keyof DeviceFacts]: DeviceFacts[F] };

/**
 * The devices that a query describes, by what all ledgers say of them; in order of device ID. Every entry is checked
 * against its ledger's signed tree on the way. Times are the acting parties' own.
 */
export async function devicesOfGroup(sources: readonly LedgerSource[], query: GroupQuery): Promise<DeviceFacts[]> {
  const devices = new Map<string, Known>();
  const parents = new Map<string, string>();
  await Promise.all(
    sources.map(async ({ party, vkey, fetch }) => {
      const reader = await LogReader.open({ fetch, log: parseVkey(vkey), verify: webCryptoVerify, sha256: nodeSha256 });
      for await (const entry of reader.entries()) note(parseEntry(entry.bytes).act, party, devices, parents);
    }),
  );
  const found: DeviceFacts[] = [];
  for (const facts of devices.values()) {
    if (facts.issuer !== undefined) facts.under = [facts.issuer, ...above(facts.issuer, parents)];
    if (matchesGroup(query, facts)) found.push(facts);
  }
  return found.toSorted((a, b) => (a.device! < b.device! ? -1 : 1));
}

function note(act: AnyAct, party: string, devices: Map<string, Known>, parents: Map<string, string>): void {
  if (act.type === "delegation") {
    const { child } = act.fields;
    if (child !== party) parents.set(child, party);
    return;
  }
  if (act.type !== "built" && act.type !== "certified" && act.type !== "injected" && act.type !== "installed") return;
  const device = act.subject[0]!.name;
  let facts = devices.get(device);
  if (facts === undefined) devices.set(device, (facts = { device }));
  facts.lot = act.fields.lot;
  const time = Date.parse(act.time);
  facts[act.type] = time;
  if (act.type === "built") facts.builder = party;
  if (act.type === "installed") Object.assign(facts, { installer: party, technician: act.fields.technician });
  if (act.type === "certified") {
    const { serial, notAfter } = parseCertificate(fromBase64(act.fields.certificate));
    Object.assign(facts, { issuer: party, serial, expires: notAfter.getTime(), profile: act.fields.profile.name });
  }
}

function above(party: string, parents: ReadonlyMap<string, string>): string[] {
  const found: string[] = [];
  // Ledgers may claim what they like: a ring of parents ends where it began.
  for (let next = parents.get(party); next !== undefined && !found.includes(next); next = parents.get(next))
    found.push(next);
  return found;
}
