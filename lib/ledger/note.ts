/**
 * C2SP signed notes (c2sp.org/signed-note v1): a text, a blank line, signature lines. Keys of type 0x01 (Ed25519, what a
 * log signs with), 0x02 (ECDSA P-256, for a second line by a log) and 0x04 (witness Ed25519, c2sp.org/tlog-cosignature)
 * are known; every other line is carried, not read.
 */
import { concatBytes, equalBytes, fromBase64, fromHex, fromUtf8, toBase64, toHex, utf8 } from "../domain/bytes.ts";
import { CountersignError, isCountersignError } from "../domain/errors.ts";
import { sha256 } from "../domain/hash.ts";
import type { Signer, VerifySignature } from "../domain/signing.ts";
import { keyAlgorithmOf } from "../pki/spki.ts";

export const MAX_NOTE_BYTES = 256 * 1024;
export const MAX_NOTE_SIGNATURES = 64;
const MAX_KEY_NAME = 256;

export const KEY_TYPE = { ed25519: 0x01, ecdsa: 0x02, cosignature: 0x04 } as const;
export type KeyType = (typeof KEY_TYPE)[keyof typeof KEY_TYPE];

export interface NoteSignature {
  readonly name: string;
  /** 4 bytes as 8 lower-case hex digits */
  readonly keyId: string;
  /** What follows the key ID; for a cosignature a u64 time and 64 bytes. */
  readonly signature: Uint8Array;
}
export interface Note {
  /** Ends with a newline. */
  readonly text: string;
  readonly signatures: readonly NoteSignature[];
}
/** A verifier key. For a log the name is its origin. */
export interface NoteKey {
  readonly name: string;
  readonly type: KeyType;
  readonly keyId: string;
  /** 32 raw bytes; of a P-256 key its SubjectPublicKeyInfo */
  readonly publicKey: Uint8Array;
}
/** A signature line that a known key made. `time` (seconds since 1970) is set for cosignatures. */
export interface VerifiedSignature {
  readonly key: NoteKey;
  readonly time?: number;
}

const SPKI_ED25519 = fromHex("302a300506032b6570032100");

/** DER SubjectPublicKeyInfo (RFC 8410) of a raw 32-byte Ed25519 key. @throws CountersignError `key-unsupported` */
export function ed25519Spki(raw: Uint8Array): Uint8Array {
  if (raw.length !== 32) {
    throw new CountersignError("key-unsupported", `an Ed25519 public key has 32 bytes, not ${raw.length}`);
  }
  return concatBytes(SPKI_ED25519, raw);
}

/** The raw 32-byte key inside an Ed25519 SPKI. @throws CountersignError `key-unsupported` for any other key */
export function ed25519Raw(spki: Uint8Array): Uint8Array {
  if (spki.length !== 44 || !equalBytes(spki.subarray(0, 12), SPKI_ED25519)) {
    throw new CountersignError("key-unsupported", "the key is not Ed25519: logs and witnesses sign with Ed25519");
  }
  return spki.slice(12);
}

function invalid(message: string): CountersignError {
  return new CountersignError("note-invalid", message);
}

function assertKeyName(name: string): string {
  if (name === "" || name.length > MAX_KEY_NAME || /[\s\u0085+]/u.test(name) || hasControl(name)) {
    throw invalid(`key name ${JSON.stringify(name.slice(0, 80))} is empty, too long, or holds a space, + or control`);
  }
  return name;
}

function hasControl(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20 && unit !== 0x0a) return true;
  }
  return false;
}

/** First 4 bytes, as hex, of SHA-256(name || 0x0A || type || public key); of a P-256 key's SPKI alone. */
export function noteKeyId(name: string, type: KeyType, publicKey: Uint8Array): string {
  if (type === KEY_TYPE.ecdsa) return toHex(sha256(publicKey).subarray(0, 4));
  return toHex(sha256(concatBytes(utf8(name), Uint8Array.of(0x0a, type), publicKey)).subarray(0, 4));
}

/** @throws CountersignError `note-invalid` or `key-unsupported` */
export function noteKey(name: string, type: KeyType, publicKey: Uint8Array): NoteKey {
  assertKeyName(name);
  if (type === KEY_TYPE.ecdsa) {
    if (!isP256(publicKey)) throw new CountersignError("key-unsupported", `the key of ${name} is no P-256 key`);
  } else if (publicKey.length !== 32) {
    throw new CountersignError("key-unsupported", `an Ed25519 public key has 32 bytes, not ${publicKey.length}`);
  }
  return { name, type, keyId: noteKeyId(name, type, publicKey), publicKey };
}

function isP256(spki: Uint8Array): boolean {
  try {
    return keyAlgorithmOf(spki) === "ec-p256";
  } catch (error) {
    if (isCountersignError(error)) return false;
    throw error;
  }
}

/** `name+hex8(key ID)+base64(type || key)` */
export function formatVkey(key: NoteKey): string {
  return `${key.name}+${key.keyId}+${toBase64(concatBytes(Uint8Array.of(key.type), key.publicKey))}`;
}

/** @throws CountersignError `note-invalid` for a malformed vkey, a key ID that doesn't fit, or a type not known here */
export function parseVkey(vkey: string): NoteKey {
  const match = vkey.length <= 1024 ? /^([^+]+)\+([0-9a-fA-F]{8})\+([A-Za-z0-9+/=]+)$/.exec(vkey) : null;
  if (match === null) throw invalid("the verifier key is not of the form name+keyid+base64");
  const [, name, keyId, encoded] = match as unknown as [string, string, string, string];
  let blob: Uint8Array;
  try {
    blob = fromBase64(encoded);
  } catch (cause) {
    throw new CountersignError("note-invalid", `verifier key of ${name}: not base64`, { cause });
  }
  const type = Object.values(KEY_TYPE).find((known) => known === blob[0]);
  if (type === undefined || (type === KEY_TYPE.ecdsa ? !isP256(blob.subarray(1)) : blob.length !== 33)) {
    throw invalid(`verifier key of ${name}: only keys of type 1 (Ed25519), 2 (P-256) and 4 (witness) are known`);
  }
  const key = noteKey(name, type, blob.slice(1));
  if (key.keyId !== keyId.toLowerCase()) throw invalid(`verifier key of ${name}: its key ID doesn't fit its key`);
  return key;
}

/** @throws CountersignError `note-invalid` for a text or a signature that no note can hold */
export function formatNote(note: Note): Uint8Array {
  if (!note.text.endsWith("\n") || hasControl(note.text)) {
    throw invalid("a note's text ends with a newline and holds no other control characters");
  }
  const lines = note.signatures.map(formatSignatureLine);
  if (lines.length === 0 || lines.length > MAX_NOTE_SIGNATURES) {
    throw invalid(`a note has 1 to ${MAX_NOTE_SIGNATURES} signatures, not ${lines.length}`);
  }
  return utf8(`${note.text}\n${lines.join("")}`);
}

/**
 * Splits a note at its last blank line. Says nothing about the signatures: see `verifyNote`.
 * @throws CountersignError `note-invalid`
 */
export function parseNote(bytes: Uint8Array): Note {
  if (bytes.length > MAX_NOTE_BYTES)
    throw invalid(`the note has ${bytes.length} bytes, the limit is ${MAX_NOTE_BYTES}`);
  let whole: string;
  try {
    whole = fromUtf8(bytes);
  } catch (cause) {
    throw new CountersignError("note-invalid", "the note is not UTF-8", { cause });
  }
  if (hasControl(whole)) throw invalid("the note holds a control character");
  const split = whole.lastIndexOf("\n\n");
  if (split < 0) throw invalid("the note has no blank line before its signatures");
  const text = whole.slice(0, split + 1);
  const tail = whole.slice(split + 2);
  if (!tail.endsWith("\n")) throw invalid("the note has no signature line, or its last line has no newline");
  const lines = tail.slice(0, -1).split("\n");
  if (lines.length > MAX_NOTE_SIGNATURES) throw invalid(`the note has more than ${MAX_NOTE_SIGNATURES} signatures`);
  return { text, signatures: lines.map(parseSignatureLine) };
}

/** With its newline. @throws CountersignError `note-invalid` for a name that no key can have */
export function formatSignatureLine({ name, keyId, signature }: NoteSignature): string {
  return `\u2014 ${assertKeyName(name)} ${toBase64(concatBytes(fromHex(keyId), signature))}\n`;
}

/** A line without its newline. @throws CountersignError `note-invalid` */
export function parseSignatureLine(line: string): NoteSignature {
  const match = /^\u2014 ([^ ]+) ([A-Za-z0-9+/=]+)$/.exec(line);
  if (match === null) throw invalid("the note has a malformed signature line");
  const name = assertKeyName(match[1]!);
  let blob: Uint8Array;
  try {
    blob = fromBase64(match[2]!);
  } catch (cause) {
    throw new CountersignError("note-invalid", `the note's signature by ${name} is not base64`, { cause });
  }
  if (blob.length < 5) throw invalid(`the note's signature by ${name} is too short`);
  return { name, keyId: toHex(blob.subarray(0, 4)), signature: blob.slice(4) };
}

/** What a witness signs: `cosignature/v1`, its time, and the whole note text. */
export function cosignatureMessage(text: string, time: number): Uint8Array {
  return utf8(`cosignature/v1\ntime ${time}\n${text}`);
}

/** The end of the year 9999: what RFC 3339, and a Date, can still say. */
export const MAX_COSIGNATURE_TIME = 253_402_300_799;

/** A cosignature's time in seconds; undefined unless it is u64 time + 64 bytes and the time is one that can be written. */
export function cosignatureTime(signature: Uint8Array): number | undefined {
  if (signature.length !== 72) return undefined;
  const view = new DataView(signature.buffer, signature.byteOffset, 8);
  const time = view.getBigUint64(0);
  return time <= BigInt(MAX_COSIGNATURE_TIME) ? Number(time) : undefined;
}

/**
 * The lines that known keys made, each key once. Lines of unknown keys are passed over.
 * @throws CountersignError `note-invalid` when a line with a known name and key ID doesn't verify
 */
export async function verifyNote(
  note: Note,
  keys: readonly NoteKey[],
  verify: VerifySignature,
): Promise<VerifiedSignature[]> {
  const verified = new Map<NoteKey, VerifiedSignature>();
  for (const line of note.signatures) {
    const key = keys.find((k) => k.name === line.name && k.keyId === line.keyId);
    if (key === undefined) continue;
    const time = key.type === KEY_TYPE.cosignature ? cosignatureTime(line.signature) : undefined;
    if (key.type === KEY_TYPE.cosignature && time === undefined) {
      throw invalid(`the cosignature of ${key.name} is malformed`);
    }
    const ecdsa = key.type === KEY_TYPE.ecdsa;
    const good = await verify({
      spki: ecdsa ? key.publicKey : ed25519Spki(key.publicKey),
      algorithm: ecdsa ? "ecdsa-p256-sha256" : "ed25519",
      message: time === undefined ? utf8(note.text) : cosignatureMessage(note.text, time),
      signature: time === undefined ? line.signature : line.signature.subarray(8),
    });
    if (!good) throw invalid(`the signature of ${key.name} does not verify`);
    if (!verified.has(key)) verified.set(key, time === undefined ? { key } : { key, time });
  }
  return [...verified.values()];
}

/**
 * Signs a text as `name`, a line a key: Ed25519 first, which every reader of a log knows, then P-256.
 * @throws CountersignError `key-unsupported` for any other key, or what a signer throws
 */
export async function signNote(text: string, name: string, ...signers: readonly Signer[]): Promise<Note> {
  const signatures: NoteSignature[] = [];
  for (const signer of signers) {
    const ecdsa = signer.algorithm === "ecdsa-p256-sha256";
    const key = ecdsa
      ? noteKey(name, KEY_TYPE.ecdsa, signer.spki)
      : noteKey(name, KEY_TYPE.ed25519, ed25519Raw(signer.spki));
    signatures.push({ name, keyId: key.keyId, signature: await signer.sign(utf8(text)) });
  }
  return { text, signatures };
}
