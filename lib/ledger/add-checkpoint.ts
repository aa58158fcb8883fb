/** The body of C2SP tlog-witness's `add-checkpoint`: the old size, a consistency proof from there, a blank line, the checkpoint. */
import { concatBytes, fromBase64, fromUtf8, toBase64, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { parseDecimal } from "./checkpoint.ts";
import { HASH_SIZE } from "./tree.ts";

/** A proof of 63 hashes and a checkpoint with dozens of signatures stay below it. */
export const MAX_ADD_CHECKPOINT_BYTES = 64 * 1024;
export const MAX_PROOF_LINES = 63;
/** What a witness answers a client with that is behind: its size, in decimal. */
export const TLOG_SIZE_MEDIA_TYPE = "text/x.tlog.size";

export interface AddCheckpoint {
  readonly oldSize: number;
  /** RFC 6962 section 2.1.2, from the old size to the checkpoint's; empty when the old size is 0 or the same */
  readonly proof: readonly Uint8Array[];
  /** the checkpoint's note, byte for byte */
  readonly checkpoint: Uint8Array;
}

export function formatAddCheckpoint({ oldSize, proof, checkpoint }: AddCheckpoint): Uint8Array {
  const lines = proof.map((hash) => `${toBase64(hash)}\n`).join("");
  return concatBytes(utf8(`old ${oldSize}\n${lines}\n`), checkpoint);
}

/** Reads a request's form; says nothing about its truth. @throws CountersignError `input-invalid`, `input-too-large` */
export function parseAddCheckpoint(body: Uint8Array): AddCheckpoint {
  if (body.length > MAX_ADD_CHECKPOINT_BYTES) {
    throw new CountersignError("input-too-large", `add-checkpoint takes at most ${MAX_ADD_CHECKPOINT_BYTES} bytes`);
  }
  let text: string;
  try {
    text = fromUtf8(body);
  } catch (cause) {
    throw new CountersignError("input-invalid", "add-checkpoint: the body is not UTF-8", { cause });
  }
  const split = text.indexOf("\n\n");
  if (split < 0) throw invalid("there is no blank line before the checkpoint");
  const [first, ...hashes] = text.slice(0, split).split("\n");
  const oldSize = first!.startsWith("old ") ? parseDecimal(first!.slice(4)) : undefined;
  if (oldSize === undefined) throw invalid("the first line is not `old` and a size in plain decimal");
  if (hashes.length > MAX_PROOF_LINES) throw invalid(`the proof has more than ${MAX_PROOF_LINES} lines`);
  const proof = hashes.map((line) => {
    const hash = decode(line);
    if (hash?.length !== HASH_SIZE) throw invalid("a proof line is not the base64 of a SHA-256 hash");
    return hash;
  });
  return { oldSize, proof, checkpoint: utf8(text.slice(split + 2)) };
}

function decode(line: string): Uint8Array | undefined {
  try {
    return fromBase64(line);
  } catch {
    return undefined;
  }
}

function invalid(message: string): CountersignError {
  return new CountersignError("input-invalid", `add-checkpoint: ${message}`);
}
