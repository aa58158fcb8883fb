import type { ErrorCode } from "../lib/domain/error-codes.ts";
import type { KeyAlgorithm } from "../lib/domain/signing.ts";

/** What crosses between chunk-signer.ts and its thread, chunk-thread.ts. */

/** Signatures a message at most. */
export const CHUNK = 64;
/** A longer message is signed by itself: certificates have less than 2 KiB. */
export const MAX_MESSAGE_BYTES = 4096;
/** RSA-4096's signature has 512. */
export const MAX_SIGNATURE_BYTES = 512;

/**
 * A token takes longer over every signature: one that is reached over a network or a bus, whose sessions work side by
 * side. At this rate the thread still signs and verifies more than one process certifies.
 */
export const SLOW_MS = 0.3;
/** By how many signatures a token is judged: who was kept from its core in one of them was not in all. */
export const JUDGED_BY = 4;
/** The length of a signature, before it. */
export const SLOT_BYTES = 2 + MAX_SIGNATURE_BYTES;

/** Numbers in the shared `control`: how many are signed and verified; whether to go on. */
export const DONE = 0;
export const STOP = 1;

export interface ThreadData {
  /** of the PKCS#11 module */
  readonly path: string;
  readonly messages: SharedArrayBuffer;
  /** CHUNK times SLOT_BYTES */
  readonly signatures: SharedArrayBuffer;
  readonly control: SharedArrayBuffer;
}

/** Messages to be signed with one key on one session. Handles are PKCS#11's, and the process's. */
export interface ChunkOrder {
  readonly session: Uint8Array;
  readonly key: Uint8Array;
  readonly algorithm: KeyAlgorithm;
  /** the key's own, by which each signature is verified */
  readonly spki: Uint8Array;
  /** how much of the memory holds messages */
  readonly used: number;
}

export interface ChunkReport {
  /** the first so many are signed and verified */
  readonly done: number;
  /** why the next one isn't */
  readonly failure: ChunkFailure | undefined;
  /** ms of the fastest signature; Infinity when none was made */
  readonly fastestMs: number;
}

/** `wrong`: the token gave a signature that doesn't verify; else what was thrown, of PKCS#11 without a code of ours. */
export type ChunkFailure = "wrong" | { readonly message: string; readonly code: ErrorCode | undefined };
