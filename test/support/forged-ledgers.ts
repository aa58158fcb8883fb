import { MemoryLog } from "./memory-log.ts";
import type { TestParty } from "./world.ts";
import { equalBytes, fromUtf8, toHex, utf8 } from "../../lib/domain/bytes.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import type { ActFields, ActType } from "../../lib/records/acts.ts";
import { PAYLOAD_TYPES, signDsse } from "../../lib/records/dsse.ts";
import { buildStatement, parseEntry, parseStatement, type Act, type AnyAct } from "../../lib/records/statement.ts";

/** Ledgers as a party would forge them that has all its own keys: correctly signed, and not true. */

export type Edit = (act: AnyAct) => AnyAct | AnyAct[] | undefined;

/** The party's ledger with some of its acts otherwise; acts that name an altered one name the altered one. */
export async function rewritten(
  party: TestParty,
  edit: Edit,
  more: readonly Uint8Array[] = [],
  renamed = new Map<string, string>(),
): Promise<MemoryLog> {
  const entries: Uint8Array[] = [];
  for (const old of party.log.entries) {
    const { statement, dsse } = parseEntry(old);
    const text = fromUtf8(statement).replace(/[0-9a-f]{64}/g, (hash) => renamed.get(hash) ?? hash);
    const edited = edit(parseStatement(utf8(text)));
    for (const act of edited === undefined ? [] : [edited].flat()) {
      const bytes = buildStatement(act as Act);
      // What stays as it was keeps its signature: other ledgers name it by its leaf.
      const same = equalBytes(bytes, statement);
      const entry = same
        ? old
        : dsse
          ? await signDsse(PAYLOAD_TYPES.statement, bytes, party.act, party.act.keyId)
          : bytes;
      entries.push(entry);
      renamed.set(toHex(leafHash(old)), toHex(leafHash(entry)));
    }
  }
  const log = new MemoryLog(party.origin, party.log.signer);
  await log.append([...entries, ...more]);
  return log;
}

export const keep: Edit = (act) => act;
export const only =
  <T extends ActType>(type: T, change: (act: Act<T>) => Act<T> | Act<T>[] | undefined): Edit =>
  (act) =>
    act.type === type ? (change(act as unknown as Act<T>) as AnyAct | AnyAct[] | undefined) : act;
export const fieldsOf = <T extends ActType>(type: T, change: (fields: ActFields<T>) => Partial<ActFields<T>>): Edit =>
  only(type, (act) => ({ ...act, fields: { ...act.fields, ...change(act.fields) } }));
/** Of what follows the certificate nothing is left. */
export const upToCertified =
  (edit: Edit): Edit =>
  (act) =>
    act.type === "injected" || act.type === "installed" ? undefined : edit(act);
