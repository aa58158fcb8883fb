import { CountersignError } from "../domain/errors.ts";

/** SIGNER_ID of a software component (PSA Attestation API 1.0, section 6.4). */
const SIGNER_ID = 5;

/**
 * MCUboot's BOOT_RECORD (a CBOR map of integer keys to strings, RFC 8949) with the signer replaced in place: the
 * bootloader measures into this very encoding, so it isn't written anew.
 * @param signer SHA-256 of the signer's SubjectPublicKeyInfo
 * @throws CountersignError `image-invalid` for a record that isn't one or names no signer of that length
 */
export function withSigner(record: Uint8Array, signer: Uint8Array): Uint8Array {
  const at = signerAt(record, signer.length);
  const out = new Uint8Array(record);
  out.set(signer, at);
  return out;
}

function signerAt(record: Uint8Array, length: number): number {
  const head = record[0] ?? 0;
  // A map of up to 23 pairs, as every known writer makes it.
  if (head < 0xa0 || head > 0xb7) throw invalid("it is no CBOR map");
  let found: number | undefined;
  let at = 1;
  for (let pair = 0; pair < head - 0xa0; pair++) {
    const key = record[at++] ?? 0xff;
    if (key > 0x17) throw invalid("a key of it is no small integer");
    const first = record[at++] ?? 0;
    const major = first >> 5;
    if (major !== 2 && major !== 3) throw invalid("a value of it is no string");
    const info = first & 0x1f;
    if (info > 24) throw invalid("a string of it is too long");
    const size = info === 24 ? (record[at++] ?? 0) : info;
    if (at + size > record.length) throw invalid("it is cut off");
    if (key === SIGNER_ID) {
      if (found !== undefined || major !== 2 || size !== length) throw invalid("its signer is no single SHA-256");
      found = at;
    }
    at += size;
  }
  if (at !== record.length) throw invalid("something follows it");
  if (found === undefined) throw invalid("it names no signer");
  return found;
}

function invalid(why: string): CountersignError {
  return new CountersignError("image-invalid", `the image's BOOT_RECORD can't be kept: ${why}`);
}
