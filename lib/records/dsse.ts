import { z } from "zod";
import { concatBytes, fromBase64, fromUtf8, toBase64, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { canonicalJson } from "../domain/json.ts";
import type { Signer, SignatureAlgorithm, VerifySignature } from "../domain/signing.ts";
import { base64, sha256Hex } from "./primitives.ts";

/** DSSE v1 (github.com/secure-systems-lab/dsse): one payload, one or more signatures over its pre-authentication encoding. */
export const dsseEnvelope = z.strictObject({
  payload: base64(1 << 20),
  payloadType: z.string().min(1).max(128),
  signatures: z
    .array(z.strictObject({ keyid: sha256Hex, sig: base64(1024) }))
    .min(1)
    .max(16),
});
export type DsseEnvelope = z.infer<typeof dsseEnvelope>;

export const PAYLOAD_TYPES = {
  statement: "application/vnd.in-toto+json",
  message: "application/vnd.countersign.message+json",
  manifest: "application/vnd.countersign.manifest+json",
} as const;

/** The bytes that are signed: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body. */
export function preAuthEncoding(payloadType: string, payload: Uint8Array): Uint8Array {
  const type = utf8(payloadType);
  return concatBytes(utf8(`DSSEv1 ${type.length} `), type, utf8(` ${payload.length} `), payload);
}

/** Signs and returns the envelope's exact bytes (canonical JSON): store these, never serialise again. */
export async function signDsse(
  payloadType: string,
  payload: Uint8Array,
  signer: Signer,
  keyId: string,
): Promise<Uint8Array> {
  const sig = await signer.sign(preAuthEncoding(payloadType, payload));
  const envelope: DsseEnvelope = {
    payload: toBase64(payload),
    payloadType,
    signatures: [{ keyid: keyId, sig: toBase64(sig) }],
  };
  return canonicalJson(envelope);
}

export interface OpenedDsse {
  readonly envelope: DsseEnvelope;
  readonly payload: Uint8Array;
}

/**
 * Reads an envelope without checking signatures.
 * @throws CountersignError `envelope-invalid`
 */
export function parseDsse(bytes: Uint8Array, payloadType: string, maxBytes = 1 << 20): OpenedDsse {
  if (bytes.length > maxBytes) {
    throw new CountersignError(
      "input-too-large",
      `the DSSE envelope has ${bytes.length} bytes, at most ${maxBytes} are allowed`,
    );
  }
  let envelope: DsseEnvelope;
  try {
    envelope = dsseEnvelope.parse(JSON.parse(fromUtf8(bytes)));
    if (envelope.payloadType !== payloadType)
      throw new Error(`its payload type is ${envelope.payloadType.slice(0, 80)}`);
    return { envelope, payload: fromBase64(envelope.payload) };
  } catch (cause) {
    throw new CountersignError("envelope-invalid", `not a DSSE envelope of ${payloadType}`, { cause });
  }
}

/** True when one of the envelope's signatures is by `key` and verifies. */
export async function verifyDsse(
  opened: OpenedDsse,
  key: { spki: Uint8Array; keyId: string; algorithm: SignatureAlgorithm },
  verify: VerifySignature,
): Promise<boolean> {
  const message = preAuthEncoding(opened.envelope.payloadType, opened.payload);
  for (const { keyid, sig } of opened.envelope.signatures) {
    if (keyid !== key.keyId) continue;
    const signature = fromBase64(sig);
    if (await verify({ spki: key.spki, algorithm: key.algorithm, message, signature })) return true;
  }
  return false;
}
