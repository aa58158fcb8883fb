/** C2SP tlog-proof v1: index, inclusion path and checkpoint in one text, so that one file proves an entry offline. */
import { concatBytes, fromBase64, fromUtf8, toBase64, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { parseDecimal } from "./checkpoint.ts";
import { MAX_NOTE_BYTES, parseNote } from "./note.ts";
import { HASH_SIZE, MAX_PROOF_HASHES } from "./tree.ts";

const HEADER = "c2sp.org/tlog-proof@v1";
/** What torchwood, an independent verifier, still reads. */
export const MAX_EXTRA_BYTES = 49_000;
const MAX_PROOF_BYTES = MAX_NOTE_BYTES + 80_000;

export interface TlogProof {
  readonly index: number;
  readonly path: readonly Uint8Array[];
  /** the checkpoint's exact note bytes */
  readonly checkpoint: Uint8Array;
  /** not authenticated by anything */
  readonly extra?: Uint8Array;
}

function invalid(message: string): CountersignError {
  return new CountersignError("proof-invalid", `tlog-proof: ${message}`);
}

export function formatTlogProof(proof: TlogProof): Uint8Array {
  if ((proof.extra?.length ?? 0) > MAX_EXTRA_BYTES) throw invalid(`extra data exceeds ${MAX_EXTRA_BYTES} bytes`);
  const extra = proof.extra === undefined ? "" : `extra ${toBase64(proof.extra)}\n`;
  const path = proof.path.map((hash) => `${toBase64(hash)}\n`).join("");
  return concatBytes(utf8(`${HEADER}\n${extra}index ${proof.index}\n${path}\n`), proof.checkpoint);
}

/** Reads a proof; says nothing about its truth. @throws CountersignError `proof-invalid`, `note-invalid` */
export function parseTlogProof(bytes: Uint8Array): TlogProof {
  if (bytes.length > MAX_PROOF_BYTES) throw invalid(`it has ${bytes.length} bytes, the limit is ${MAX_PROOF_BYTES}`);
  let text: string;
  try {
    text = fromUtf8(bytes);
  } catch (cause) {
    throw new CountersignError("proof-invalid", "tlog-proof: not UTF-8", { cause });
  }
  const split = text.indexOf("\n\n");
  if (split < 0) throw invalid("there is no blank line before the checkpoint");
  const lines = text.slice(0, split).split("\n");
  if (lines.shift() !== HEADER) throw invalid(`the first line is not ${HEADER}`);
  const extra = lines[0]?.startsWith("extra ") ? decode(lines.shift()!.slice(6), "extra data") : undefined;
  if ((extra?.length ?? 0) > MAX_EXTRA_BYTES) throw invalid(`extra data exceeds ${MAX_EXTRA_BYTES} bytes`);
  const index = parseDecimal(/^index (.*)$/.exec(lines.shift() ?? "")?.[1] ?? "");
  if (index === undefined) throw invalid("the index line is missing or not a plain decimal");
  if (lines.length > MAX_PROOF_HASHES) throw invalid(`it has more than ${MAX_PROOF_HASHES} hashes`);
  const path = lines.map((line) => {
    const hash = decode(line, "a hash");
    if (hash.length !== HASH_SIZE) throw invalid(`a hash has ${hash.length} bytes`);
    return hash;
  });
  const checkpoint = utf8(text.slice(split + 2));
  parseNote(checkpoint);
  return extra === undefined ? { index, path, checkpoint } : { index, path, checkpoint, extra };
}

function decode(text: string, what: string): Uint8Array {
  try {
    return fromBase64(text);
  } catch (cause) {
    throw new CountersignError("proof-invalid", `tlog-proof: ${what} is not base64`, { cause });
  }
}
