/**
 * Does a log continue what was seen of it before? When it doesn't, both signed checkpoints and a consistency proof show
 * it to anybody: a log can't deny its own signatures.
 */
import { equalBytes, fromBase64, fromUtf8, toBase64, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { Sha256 } from "../domain/hash.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { splitView, type SplitView } from "../records/split-view.ts";
import { openCheckpoint, type SignedCheckpoint } from "./checkpoint.ts";
import { formatVkey, parseVkey, type NoteKey } from "./note.ts";
import { LogReader, type FetchResource } from "./reader.ts";
import { verifyConsistency } from "./tree.ts";

/** What was seen of a log earlier. */
export interface EarlierLog {
  /** its checkpoint's note */
  readonly note: Uint8Array;
  /** its tiles, where they were kept: they tell a fork from a rollback when the log is shorter now */
  readonly fetch?: FetchResource;
}

export type Continuation =
  | { readonly ok: true }
  /** `fork`: proven by `evidence`; `rollback`: shorter than before, which two checkpoints by themselves don't prove */
  | {
      readonly ok: false;
      readonly reason: "fork" | "rollback";
      readonly message: string;
      readonly evidence?: SplitView;
    };

/**
 * Holds a log against an earlier checkpoint of it.
 * @throws CountersignError `note-invalid`, `checkpoint-invalid` when the earlier one isn't this log's, `tile-invalid`
 */
export async function continues(
  reader: LogReader,
  earlier: EarlierLog,
  { log, verify, sha256 }: { log: NoteKey; verify: VerifySignature; sha256?: Sha256 },
): Promise<Continuation> {
  const before = await openCheckpoint(earlier.note, log, verify);
  const sizes = `it had ${before.size} entries and has ${reader.size}`;
  if (before.size <= reader.size) {
    const evidence = await prefixDiffers(reader, before, log);
    if (evidence === undefined) return { ok: true };
    const message = `log ${reader.origin} was forked or rewritten: ${sizes}, but not the same first ${before.size}`;
    return { ok: false, reason: "fork", message, evidence };
  }
  const old = await openEarlier(earlier, log, verify, sha256);
  const evidence = old && (await prefixDiffers(old, reader.checkpoint, log));
  if (evidence !== undefined) {
    const message = `log ${reader.origin} was forked or rewritten: ${sizes}, and those aren't the first of what it had`;
    return { ok: false, reason: "fork", message, evidence };
  }
  return { ok: false, reason: "rollback", message: `log ${reader.origin} was rolled back: ${sizes}` };
}

/** Damaged tiles of an older copy prove nothing and hide nothing: the rollback is reported without them. */
async function openEarlier(
  { note, fetch }: EarlierLog,
  log: NoteKey,
  verify: VerifySignature,
  sha256: Sha256 | undefined,
): Promise<LogReader | undefined> {
  if (fetch === undefined) return undefined;
  try {
    const options = { fetch, log, verify, checkpoint: note };
    return await LogReader.open(sha256 === undefined ? options : { ...options, sha256 });
  } catch (error) {
    if (error instanceof CountersignError && error.code === "tile-invalid") return undefined;
    throw error;
  }
}

/** Evidence when the larger log's beginning isn't the smaller checkpoint's tree. */
async function prefixDiffers(
  larger: LogReader,
  smaller: SignedCheckpoint,
  log: NoteKey,
): Promise<SplitView | undefined> {
  const prefixRoot = await larger.rootAt(smaller.size);
  if (equalBytes(prefixRoot, smaller.root)) return undefined;
  const same = smaller.size === larger.size || smaller.size === 0;
  const proof = same ? [] : await larger.consistencyProof(smaller.size);
  return {
    schema: 1,
    kind: "split-view",
    vkey: formatVkey(log),
    smaller: fromUtf8(smaller.note),
    larger: fromUtf8(larger.checkpoint.note),
    prefixRoot: toBase64(prefixRoot),
    proof: proof.map(toBase64),
  };
}

/**
 * Checks a file of evidence, trusting nothing in it.
 * @param log the log's key as the checker knows it; without one, the file's: then it proves something about that key alone
 * @returns the log's origin and the two sizes
 * @throws CountersignError `proof-invalid` when it proves nothing, and why
 */
export async function checkSplitView(
  evidence: unknown,
  verify: VerifySignature,
  log?: NoteKey,
): Promise<{ origin: string; sizes: [number, number] }> {
  const nothing = (why: string, cause?: unknown): CountersignError =>
    new CountersignError("proof-invalid", `the evidence proves nothing: ${why}`, { cause });
  const parsed = splitView.safeParse(evidence);
  if (!parsed.success) throw nothing(`it isn't of the form of a split view: ${parsed.error.issues[0]?.message ?? ""}`);
  const { vkey, smaller, larger, prefixRoot, proof } = parsed.data;
  if (log !== undefined && formatVkey(log) !== vkey)
    throw nothing(`it is about another log key, ${vkey.slice(0, 120)}`);
  let small: SignedCheckpoint;
  let large: SignedCheckpoint;
  try {
    const key = log ?? parseVkey(vkey);
    [small, large] = (await Promise.all([smaller, larger].map((note) => openCheckpoint(utf8(note), key, verify)))) as [
      SignedCheckpoint,
      SignedCheckpoint,
    ];
  } catch (cause) {
    throw nothing((cause as Error).message, cause);
  }
  const root = fromBase64(prefixRoot);
  const claim = {
    oldSize: small.size,
    oldRoot: root,
    size: large.size,
    root: large.root,
    proof: proof.map(fromBase64),
  };
  if (!verifyConsistency(claim)) throw nothing(`its proof doesn't lead from ${small.size} to ${large.size} entries`);
  if (equalBytes(root, small.root)) throw nothing("the larger checkpoint continues the smaller");
  return { origin: small.origin, sizes: [small.size, large.size] };
}
