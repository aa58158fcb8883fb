/** C2SP tlog-checkpoints: a note whose text is origin, size and root, signed by the log under its origin as key name. */
import { fromBase64, toBase64 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { Signer, VerifySignature } from "../domain/signing.ts";
import { formatNote, parseNote, signNote, verifyNote, KEY_TYPE, type NoteKey, type VerifiedSignature } from "./note.ts";
import { HASH_SIZE, isTreeSize } from "./tree.ts";

export interface Checkpoint {
  readonly origin: string;
  readonly size: number;
  readonly root: Uint8Array;
}
/** A checkpoint whose log signature was verified, with the note it came in and every other known signature on it. */
export interface SignedCheckpoint extends Checkpoint {
  readonly note: Uint8Array;
  readonly signatures: readonly VerifiedSignature[];
}

/** Unsigned decimal without leading zeros, at most 2^53 - 1; undefined for anything else. */
export function parseDecimal(text: string): number | undefined {
  if (!/^(0|[1-9][0-9]{0,15})$/.test(text)) return undefined;
  const value = Number(text);
  return isTreeSize(value) ? value : undefined;
}

export function formatCheckpoint(checkpoint: Checkpoint): string {
  return `${checkpoint.origin}\n${checkpoint.size}\n${toBase64(checkpoint.root)}\n`;
}

/** The three lines of a checkpoint; extension lines are refused. @throws CountersignError `checkpoint-invalid` */
export function parseCheckpoint(text: string): Checkpoint {
  const lines = text.split("\n");
  const [origin, size, root, end] = lines;
  if (lines.length !== 4 || end !== "" || origin === undefined || origin === "") {
    throw new CountersignError("checkpoint-invalid", "a checkpoint has exactly the lines origin, size and root");
  }
  const parsedSize = parseDecimal(size!);
  if (parsedSize === undefined) {
    throw new CountersignError(
      "checkpoint-invalid",
      `checkpoint of ${origin.slice(0, 80)}: the size is not a plain decimal`,
    );
  }
  let rootHash: Uint8Array | undefined;
  try {
    rootHash = fromBase64(root!);
  } catch {
    rootHash = undefined;
  }
  if (rootHash?.length !== HASH_SIZE) {
    throw new CountersignError(
      "checkpoint-invalid",
      `checkpoint of ${origin.slice(0, 80)}: the root is not a SHA-256 hash`,
    );
  }
  return { origin, size: parsedSize, root: rootHash };
}

/**
 * Signs a checkpoint with the log's Ed25519 key, under its origin. Gives the note's exact bytes.
 * @param second a P-256 key: a line below, for readers that don't know Ed25519
 */
export async function signCheckpoint(checkpoint: Checkpoint, signer: Signer, second?: Signer): Promise<Uint8Array> {
  const signers = second === undefined ? [signer] : [signer, second];
  return formatNote(await signNote(formatCheckpoint(checkpoint), checkpoint.origin, ...signers));
}

/**
 * Parses a signed checkpoint and verifies the log's signature on it, and those of `witnesses` that are there.
 * @throws CountersignError `note-invalid` (malformed, or a signature of a known key is wrong), `checkpoint-invalid`
 *   (another origin, or not signed by this log)
 */
export async function openCheckpoint(
  note: Uint8Array,
  log: NoteKey,
  verify: VerifySignature,
  witnesses: readonly NoteKey[] = [],
): Promise<SignedCheckpoint> {
  const parsed = parseNote(note);
  const checkpoint = parseCheckpoint(parsed.text);
  if (log.type !== KEY_TYPE.ed25519) {
    throw new CountersignError("checkpoint-invalid", `the key of ${log.name} is a witness key, not a log key`);
  }
  if (checkpoint.origin !== log.name) {
    throw new CountersignError(
      "checkpoint-invalid",
      `the checkpoint is of ${checkpoint.origin.slice(0, 80)}, expected ${log.name}`,
    );
  }
  const signatures = await verifyNote(parsed, [log, ...witnesses], verify);
  if (!signatures.some((s) => s.key === log)) {
    throw new CountersignError("checkpoint-invalid", `the checkpoint of ${log.name} is not signed by that log's key`);
  }
  return { ...checkpoint, note, signatures };
}
