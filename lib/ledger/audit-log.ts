/** Checks one whole log by itself: signature, tiles, entries, and that it continues what was seen of it before. */
import { isCountersignError, type CountersignError } from "../domain/errors.ts";
import type { ErrorCode } from "../domain/error-codes.ts";
import type { SplitView } from "../records/split-view.ts";
import type { SignedCheckpoint } from "./checkpoint.ts";
import { LogReader, type FetchResource, type LogEntry, type LogReaderOptions } from "./reader.ts";
import { continues } from "./split-view.ts";

/** rollback: shorter than before; fork: as long or longer, but another history; invalid: see `code` and `message` */
export type AuditReason = "rollback" | "fork" | "invalid";

export type LogAudit =
  | { readonly ok: true; readonly checkpoint: SignedCheckpoint; readonly entries: number; readonly reader: LogReader }
  | {
      readonly ok: false;
      readonly reason: AuditReason;
      readonly code: ErrorCode;
      readonly message: string;
      /** what proves a fork to anybody */
      readonly evidence?: SplitView;
    };

export interface LogAuditOptions extends LogReaderOptions {
  /** a checkpoint of this log that was seen earlier: its exact note */
  readonly previous?: Uint8Array;
  /** the older copy's tiles, where they were kept */
  readonly previousFetch?: FetchResource;
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
      const { previous, previousFetch } = options;
      const earlier = { note: previous, ...(previousFetch === undefined ? {} : { fetch: previousFetch }) };
      const found = await continues(reader, earlier, options);
      if (!found.ok) return { ...found, code: "ledger-forked" };
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

function refuse(reason: AuditReason, { code, message }: Pick<CountersignError, "code" | "message">): LogAudit {
  return { ok: false, reason, code, message };
}
