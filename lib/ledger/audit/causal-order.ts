import { isCountersignError } from "../../domain/errors.ts";
import { toHex } from "../../domain/bytes.ts";
import { readEntry } from "../../records/line-statement.ts";
import type { ParsedEntry } from "../../records/statement.ts";
import type { ActRef } from "../../records/primitives.ts";
import type { LogEntry, LogReader } from "../reader.ts";

/** One ledger's next act. */
export interface NextAct {
  readonly party: string;
  readonly entry: LogEntry;
  readonly leafHash: string;
  readonly parsed: ParsedEntry;
}

export type CausalEvent =
  | ({ readonly kind: "act"; /** refs that no ledger holds */ readonly missing: readonly ActRef[] } & NextAct)
  | { readonly kind: "invalid"; readonly party: string; readonly index: number; readonly message: string }
  | { readonly kind: "broken"; readonly party: string; readonly message: string };

/** The acts that must have happened before this one. */
export function antecedents({ act }: ParsedEntry): ActRef[] {
  const refs: ActRef[] = act.prev.map(({ origin, leafHash }) => ({ origin, leafHash }));
  if (act.grant) refs.push(act.grant);
  if (act.type === "handoff-received") refs.push(act.fields.counterpart);
  if (act.type === "acceptance") refs.push(act.fields.keyset);
  if (act.type === "rotated") refs.push(act.fields.grant);
  if (act.type === "delegation" && act.fields.parentGrant) refs.push(act.fields.parentGrant);
  if (act.type === "certified") refs.push({ origin: act.origin, leafHash: act.fields.intent.leafHash });
  return refs;
}

interface Head {
  readonly party: string;
  readonly entries: AsyncGenerator<LogEntry, void, undefined>;
  next: NextAct | undefined;
  done: boolean;
}

/**
 * Goes through several ledgers at once so that an act comes after every act it names, one entry a ledger in memory.
 * Where that is impossible (a named act that no ledger holds, or a circle), the acts come anyway, with what is missing.
 */
export async function* inCausalOrder(
  logs: ReadonlyMap<string, LogReader>,
  seen: (ref: ActRef) => boolean,
): AsyncGenerator<CausalEvent, void, undefined> {
  const origins = new Map([...logs].map(([party, reader]) => [reader.origin, party]));
  const heads: Head[] = [...logs].map(([party, reader]) => ({
    party,
    entries: reader.entries(),
    next: undefined,
    done: false,
  }));

  // A reference into the act's own ledger, or one that isn't here, can't become true by waiting.
  const waitsFor = (head: Head, ref: ActRef): boolean => {
    const owner = origins.get(ref.origin);
    return owner !== undefined && owner !== head.party && !seen(ref);
  };

  const fill = async function* (head: Head): AsyncGenerator<CausalEvent, void, undefined> {
    while (!head.next && !head.done) {
      let entry: LogEntry | undefined;
      try {
        const result = await head.entries.next();
        if (result.done === true) head.done = true;
        else entry = result.value;
      } catch (error) {
        if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
        head.done = true;
        yield { kind: "broken", party: head.party, message: error.message };
      }
      if (!entry) continue;
      try {
        const leafHash = toHex(entry.leafHash);
        head.next = { party: head.party, entry, leafHash, parsed: readEntry(entry.bytes) };
      } catch (error) {
        if (!isCountersignError(error)) throw error;
        yield { kind: "invalid", party: head.party, index: entry.index, message: error.message };
      }
    }
  };

  for (;;) {
    let progressed = false;
    for (const head of heads) {
      for (;;) {
        yield* fill(head);
        const next = head.next;
        if (!next || antecedents(next.parsed).some((ref) => waitsFor(head, ref))) break;
        head.next = undefined;
        progressed = true;
        yield { kind: "act", ...next, missing: antecedents(next.parsed).filter((ref) => !seen(ref)) };
      }
    }
    if (progressed) continue;
    const blocked = heads.find((head) => head.next);
    if (!blocked?.next) return;
    const next = blocked.next;
    blocked.next = undefined;
    yield { kind: "act", ...next, missing: antecedents(next.parsed).filter((ref) => !seen(ref)) };
  }
}
