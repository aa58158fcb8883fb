/** Checks one whole log by itself: signature, tiles, entries, and that it continues what was seen of it before. */
import { equalBytes } from "../domain/bytes.ts";
import { isCountersignError, type CountersignError } from "../domain/errors.ts";
import type { ErrorCode } from "../domain/error-codes.ts";
import { openCheckpoint, type SignedCheckpoint } from "./checkpoint.ts";
import { LogReader, type LogEntry, type LogReaderOptions } from "./reader.ts";

/** rollback: shorter than before; fork: as long or longer, but another history; invalid: see `code` and `message` */
export type AuditReason = "rollback" | "fork" | "invalid";

export type LogAudit =
  | { readonly ok: true; readonly checkpoint: SignedCheckpoint; readonly entries: number; readonly reader: LogReader }
  | { readonly ok: false; readonly reason: AuditReason; readonly code: ErrorCode; readonly message: string };

export interface LogAuditOptions extends LogReaderOptions {
  /** a checkpoint of this log that was seen earlier: its exact note */
  readonly previous?: Uint8Array;
  /** sees every entry, in order, after it was verified; what it throws as CountersignError fails the audit */
  readonly onEntry?: (entry: LogEntry) => void | Promise<void>;
}

/**
 * Reads every entry of a log. An answer of ok means: the log's key signed the checkpoint, every tile and every entry
 * belongs to its root, and the history continues `previous`. Throws only what isn't evidence: an unreachable source.
 */
export async function auditLog(options: LogAuditOptions): Promise<LogAudit> {
  try {
    const reader = await LogReader.open(options);
    if (options.previous !== undefined) {
      const refusal = await checkContinues(reader, options.previous, options);
      if (refusal !== undefined) return refusal;
    }
    let entries = 0;
    for await (const entry of reader.entries()) {
      await options.onEntry?.(entry);
      entries++;
    }
    return { ok: true, checkpoint: reader.checkpoint, entries, reader };
  } catch (error) {
    if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
    return refuse("invalid", error);
  }
}

/** Does the log continue an earlier checkpoint of it? Undefined when it does. */
export async function checkContinues(
  reader: LogReader,
  note: Uint8Array,
  { log, verify }: LogReaderOptions,
): Promise<LogAudit | undefined> {
  const previous = await openCheckpoint(note, log, verify);
  const sizes = `it had ${previous.size} entries and has ${reader.size}`;
  if (previous.size > reader.size) {
    return refuse("rollback", { code: "ledger-forked", message: `log ${reader.origin} was rolled back: ${sizes}` });
  }
  if (equalBytes(await reader.rootAt(previous.size), previous.root)) return undefined;
  return refuse("fork", {
    code: "ledger-forked",
    message: `log ${reader.origin} was forked or rewritten: ${sizes}, but not the same first ${previous.size}`,
  });
}

function refuse(reason: AuditReason, { code, message }: Pick<CountersignError, "code" | "message">): LogAudit {
  return { ok: false, reason, code, message };
}
