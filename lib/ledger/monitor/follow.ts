import { CountersignError, isCountersignError } from "../../domain/errors.ts";
import type { Sha256 } from "../../domain/hash.ts";
import type { VerifySignature } from "../../domain/signing.ts";
import { openCheckpoint, type SignedCheckpoint } from "../checkpoint.ts";
import type { NoteKey } from "../note.ts";
import { LogReader, type FetchResource } from "../reader.ts";
import { continues } from "../split-view.ts";
import { EntryBatch, slotReused, type EntryContext } from "./entries.ts";
import type { Alarm, MonitorStore, SlotFact, SlotHolder } from "./store.ts";

export interface MonitoredLog {
  readonly party: string;
  readonly log: NoteKey;
  /** those of its policy */
  readonly witnesses: readonly NoteKey[];
  /** the log as it is served; throws only what is out of reach */
  readonly fetch: FetchResource;
  /** What a witness last cosigned of this log, where it tells: by the witness's key name. */
  readonly views?: ReadonlyMap<string, () => Promise<Uint8Array | undefined>>;
}

export interface FollowContext {
  readonly store: MonitorStore;
  readonly verify: VerifySignature;
  readonly sha256?: Sha256;
  readonly rootSha256?: string;
  /** ends it between two commits of the store */
  readonly signal?: AbortSignal;
  /** when a log has kept the round for long enough, on the clock of performance.now(); absent: never */
  readonly until?: number;
  /** Called between two commits with the time that the last one took, in ms: lets others have the machine meanwhile. */
  readonly rest?: (tookMs: number) => Promise<void>;
}

/** Entries between two commits of the store: what a crash costs, and what is held in memory. */
const ENTRIES_A_COMMIT = 1024;
/** Entries are read in order: a tile is asked for again only by its neighbours, a bundle not at all. */
const CACHE = { cacheTiles: 16, cacheBundles: 1 };
const CONDITIONS = ["ledger-rolled-back", "ledger-invalid"] as const;

/**
 * The same log, for one round: a server that answers slowly, or has no end of entries, takes no more than its time.
 * Its fetch throws CountersignError `timeout` after that, and the reason of an aborted `signal`.
 */
export function forOneRound(monitored: MonitoredLog, { until, signal }: FollowContext): MonitoredLog {
  const { party, views } = monitored;
  const inTime = <T>(work: () => Promise<T>): Promise<T> => {
    signal?.throwIfAborted();
    if (until === undefined || performance.now() < until) return work();
    throw new CountersignError("timeout", `the ledger of ${party} takes too long: the next round goes on with it`);
  };
  return {
    ...monitored,
    fetch: async (path) => inTime(() => monitored.fetch(path)),
    ...(views && { views: new Map([...views].map(([name, view]) => [name, async () => inTime(view)])) }),
  };
}

/**
 * Follows a log from where the last round left it to its newest checkpoint: signature, consistency with what was seen
 * before, every new entry. A log that contradicts itself isn't followed on: alarms say so each round, until it doesn't.
 * @returns the log as it was followed; undefined when an alarm was raised instead
 * @throws CountersignError of kind `unavailable` when it is out of reach; what was taken in stays
 */
export async function followLog(monitored: MonitoredLog, context: FollowContext): Promise<LogReader | undefined> {
  const { party, log, fetch, witnesses } = monitored;
  const { store, verify, sha256 } = context;
  const hashing = sha256 === undefined ? {} : { sha256 };
  const seen = await store.position(party);
  let reader: LogReader;
  try {
    const note = await fetch("checkpoint");
    if (note === undefined) throw new CountersignError("component-unreachable", `${party} serves no checkpoint`);
    reader = await LogReader.open({ fetch, log, verify, witnesses, checkpoint: note, ...CACHE, ...hashing });
    if (seen !== undefined && !(await holds(reader, seen.note, "", monitored, context))) return undefined;
    await holdAgainstWitnesses(reader, monitored, context);
    await takeEntries(reader, seen?.next ?? 0, { ...context, party, log });
  } catch (error) {
    if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
    await store.raise({
      code: "ledger-invalid",
      party,
      subject: "",
      message: `its ledger doesn't hold: ${error.message}`,
    });
    return undefined;
  }
  for (const code of CONDITIONS) await store.settle({ code, party, subject: "" });
  return reader;
}

/** Does the log continue a checkpoint of it that was seen before, here or by a witness? If not, says so. */
export async function holds(
  reader: LogReader,
  note: Uint8Array,
  witness: string,
  { party, log }: MonitoredLog,
  { store, verify }: Pick<FollowContext, "store" | "verify">,
): Promise<boolean> {
  const found = await continues(reader, { note }, { log, verify });
  if (found.ok) {
    if (witness !== "") await store.settle({ code: "ledger-rolled-back", party, subject: witness });
    return true;
  }
  const who = witness === "" ? "" : ` (as the witness ${witness} saw it)`;
  const alarm: Alarm = {
    code: found.reason === "fork" ? "ledger-forked" : "ledger-rolled-back",
    party,
    subject: witness,
    message: `${found.message}${who}`,
  };
  await store.raise(found.evidence === undefined ? alarm : { ...alarm, evidence: found.evidence });
  return false;
}

/** A log that shows us another history than a witness: the witness keeps the log's own signature on it. */
async function holdAgainstWitnesses(reader: LogReader, monitored: MonitoredLog, context: FollowContext): Promise<void> {
  const { log, fetch } = monitored;
  const { verify } = context;
  for (const [witness, view] of monitored.views ?? []) {
    let seen: SignedCheckpoint;
    try {
      const note = await view();
      if (note === undefined) continue;
      seen = await openCheckpoint(note, log, verify);
    } catch {
      // Out of reach, or no checkpoint of this log: it tells nothing of the log.
      continue;
    }
    let newest = reader;
    if (seen.size > reader.size) {
      // The log may have grown meanwhile.
      const note = await fetch("checkpoint");
      if (note !== undefined) newest = await LogReader.open({ fetch, log, verify, checkpoint: note });
    }
    await holds(newest, seen.note, witness, monitored, context);
  }
}

async function takeEntries(
  reader: LogReader,
  from: number,
  context: FollowContext & Omit<EntryContext, "store" | "verify">,
): Promise<void> {
  const { party, store, signal, rest } = context;
  await store.storeHead(party, { note: reader.checkpoint.note, size: reader.size });
  const reused = (fact: SlotFact, holder: SlotHolder): Alarm => slotReused(party, fact, holder);
  let batch = new EntryBatch(context);
  let next = from;
  let began = performance.now();
  try {
    for await (const entry of reader.entries(from)) {
      await batch.add(entry);
      next = entry.index + 1;
      if (next % ENTRIES_A_COMMIT > 0) continue;
      await store.take(party, next, batch, reused);
      batch = new EntryBatch(context);
      signal?.throwIfAborted();
      await rest?.(performance.now() - began);
      began = performance.now();
    }
  } finally {
    // Also of a log that breaks off, or is too slow for a whole batch in one round: what was verified is taken in.
    if (next > from && next % ENTRIES_A_COMMIT > 0) await store.take(party, next, batch, reused);
  }
}
