import { isCountersignError } from "../../domain/errors.ts";
import type { VerifySignature } from "../../domain/signing.ts";
import { parseEntry } from "../../records/statement.ts";
import { openCheckpoint, type SignedCheckpoint } from "../checkpoint.ts";
import type { LogReader } from "../reader.ts";
import { holds, type MonitoredLog } from "./follow.ts";
import type { MonitorStore, WitnessMark } from "./store.ts";

export interface WitnessView {
  readonly party: string;
  readonly witness: string;
  /** of the newest checkpoint that it is known to have cosigned */
  readonly size: number;
  /** by its own clock, RFC 3339 */
  readonly time?: string;
  /** how long there has been something that it hasn't cosigned */
  readonly behindMs: number;
}

/**
 * Looks how far each witness of a log's policy has come, by the cosignatures that are served with the log, and raises or
 * ends the alarm that one lags. How long it has been behind: since the first act that it hasn't cosigned was made, by
 * that act's word, or since it was first seen here, whichever is longer ago: a log can't talk its witness's lag away.
 */
export async function checkWitnesses(
  reader: LogReader,
  monitored: MonitoredLog,
  context: { store: MonitorStore; verify: VerifySignature; now: number; lagMs: number },
): Promise<WitnessView[]> {
  const { party, witnesses } = monitored;
  const { store, now, lagMs } = context;
  const found = await cosignedIn(reader, monitored, context);
  const views: WitnessView[] = [];
  for (const { name } of witnesses) {
    const before = await store.witness(party, name);
    const fresh = found.get(name);
    const last = fresh !== undefined && fresh.size >= (before?.size ?? 0) ? fresh : (before ?? { size: 0 });
    const behind = last.size < reader.size;
    const moved = last.size > (before?.size ?? 0);
    const since = moved ? now : (before?.behindSince ?? now);
    const mark: WitnessMark = {
      size: last.size,
      ...(last.time === undefined ? {} : { time: last.time }),
      ...(behind ? { behindSince: since } : {}),
    };
    await store.storeWitness(party, name, mark);
    const behindMs = behind ? Math.max(0, now - Math.min(since, await claimedTime(reader, last.size))) : 0;
    const alarm = { code: "witness-lagging", party, subject: name } as const;
    if (behindMs <= lagMs) await store.settle(alarm);
    else {
      const message = `the witness ${name} has cosigned ${last.size} of ${reader.size} entries, and nothing for ${Math.round(behindMs / 1000)} s`;
      await store.raise({ ...alarm, message });
    }
    const time = last.time === undefined ? {} : { time: new Date(last.time * 1000).toISOString() };
    views.push({ party, witness: name, size: last.size, ...time, behindMs });
  }
  return views;
}

/**
 * Under the newest checkpoint, and under the newest that a quorum has cosigned, where the log serves that too: that one
 * has to be of the same history, and says nothing where it isn't.
 */
async function cosignedIn(
  reader: LogReader,
  monitored: MonitoredLog,
  context: { store: MonitorStore; verify: VerifySignature },
): Promise<Map<string, { size: number; time: number }>> {
  const checkpoints = [reader.checkpoint];
  const served = await cosignedOf(reader, monitored, context);
  if (served !== undefined) checkpoints.unshift(served);
  const found = new Map<string, { size: number; time: number }>();
  for (const { size, signatures } of checkpoints) {
    for (const { key, time } of signatures) {
      if (time !== undefined && size >= (found.get(key.name)?.size ?? 0)) found.set(key.name, { size, time });
    }
  }
  return found;
}

const COSIGNED = "cosigned/newest";

async function cosignedOf(
  reader: LogReader,
  monitored: MonitoredLog,
  context: { store: MonitorStore; verify: VerifySignature },
): Promise<SignedCheckpoint | undefined> {
  const { party, fetch, log, witnesses } = monitored;
  const { store, verify } = context;
  const alarm = { code: "ledger-invalid", party, subject: COSIGNED } as const;
  const note = await fetch(COSIGNED);
  let opened: SignedCheckpoint | undefined;
  try {
    opened = note && (await openCheckpoint(note, log, verify, witnesses));
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    await store.raise({ ...alarm, message: `what it serves as ${COSIGNED} doesn't hold: ${error.message}` });
    return undefined;
  }
  await store.settle(alarm);
  // A longer one is of entries that came after this round's checkpoint: the next round sees them.
  if (opened === undefined || opened.size > reader.size) return opened;
  return (await holds(reader, opened.note, "", monitored, context)) ? opened : undefined;
}

/** When the act at this place says that it was made; now, when it can't be read. */
async function claimedTime(reader: LogReader, index: number): Promise<number> {
  try {
    return Date.parse(parseEntry((await reader.entry(index)).bytes).act.time);
  } catch (error) {
    if (!isCountersignError(error) || error.kind === "unavailable") throw error;
    return Number.POSITIVE_INFINITY;
  }
}
