/**
 * C2SP tlog-cosignatures of type 0x04 (timestamped Ed25519): a witness says that, as of a time, this is the largest
 * checkpoint of a log that it has seen and that it continues all before. They travel as note signature lines.
 */
import { concatBytes, fromUtf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { Signer, VerifySignature } from "../domain/signing.ts";
import {
  cosignatureMessage,
  ed25519Raw,
  formatNote,
  formatSignatureLine,
  KEY_TYPE,
  MAX_COSIGNATURE_TIME,
  MAX_NOTE_SIGNATURES,
  noteKey,
  parseNote,
  parseSignatureLine,
  verifyNote,
  type NoteKey,
  type NoteSignature,
} from "./note.ts";

/** One of a witness's: verified, with the line it came in. */
export interface Cosignature {
  readonly key: NoteKey;
  /** when the witness signed, in seconds since 1970 by its own clock */
  readonly time: number;
  readonly line: NoteSignature;
}

/**
 * Makes a cosignature. The caller has verified the checkpoint and that it continues the last one cosigned, and has made
 * that durable: a cosignature that exists can't be taken back.
 * @param text the whole note text of the checkpoint
 * @param name the witness's key name
 * @param time seconds since 1970
 * @throws CountersignError `note-invalid` for a time that no cosignature can have, `key-unsupported`, and the signer's
 */
export async function cosign(text: string, name: string, signer: Signer, time: number): Promise<NoteSignature> {
  if (!Number.isSafeInteger(time) || time < 0 || time > MAX_COSIGNATURE_TIME) {
    throw new CountersignError("note-invalid", `${time} is no time in whole seconds since 1970, before the year 10000`);
  }
  const { keyId } = noteKey(name, KEY_TYPE.cosignature, ed25519Raw(signer.spki));
  const stamp = new Uint8Array(8);
  new DataView(stamp.buffer).setBigUint64(0, BigInt(time));
  const signature = concatBytes(stamp, await signer.sign(cosignatureMessage(text, time)));
  return { name, keyId, signature };
}

/** Signature lines as a witness answers them (tlog-witness, add-checkpoint). */
export function formatSignatureLines(lines: readonly NoteSignature[]): string {
  return lines.map(formatSignatureLine).join("");
}

/** @throws CountersignError `note-invalid` */
export function parseSignatureLines(bytes: Uint8Array): NoteSignature[] {
  let text: string;
  try {
    text = fromUtf8(bytes);
  } catch (cause) {
    throw new CountersignError("note-invalid", "the signature lines are not UTF-8", { cause });
  }
  if (!text.endsWith("\n")) throw new CountersignError("note-invalid", "the signature lines don't end with a newline");
  const lines = text.slice(0, -1).split("\n");
  if (lines.length > MAX_NOTE_SIGNATURES) {
    throw new CountersignError("note-invalid", `there are more than ${MAX_NOTE_SIGNATURES} signature lines`);
  }
  return lines.map(parseSignatureLine);
}

/**
 * The cosignatures that known witnesses made over a note text, each witness once; lines of unknown keys are passed over.
 * @param keys of type 0x04; others are no witness's and are not looked for
 * @throws CountersignError `note-invalid` when a line with a known name and key ID doesn't verify
 */
export async function verifyCosignatures(
  text: string,
  lines: readonly NoteSignature[],
  keys: readonly NoteKey[],
  verify: VerifySignature,
): Promise<Cosignature[]> {
  const witnesses = keys.filter((key) => key.type === KEY_TYPE.cosignature);
  const verified = await verifyNote({ text, signatures: lines }, witnesses, verify);
  return verified.flatMap(({ key, time }) => {
    const line = lines.find((l) => l.name === key.name && l.keyId === key.keyId);
    return time === undefined || line === undefined ? [] : [{ key, time, line }];
  });
}

/**
 * The same note with more signature lines below its own. A line of a key that has one already takes its place: a witness
 * that was asked again has a later time. The text and the log's own lines keep their bytes.
 * @throws CountersignError `note-invalid`
 */
export function withSignatures(note: Uint8Array, added: readonly NoteSignature[]): Uint8Array {
  const { text, signatures } = parseNote(note);
  const same = (a: NoteSignature, b: NoteSignature): boolean => a.name === b.name && a.keyId === b.keyId;
  const kept = signatures.filter((line) => !added.some((other) => same(line, other)));
  return formatNote({ text, signatures: [...kept, ...added] });
}
