import { createHash } from "node:crypto";
import { HIERARCHY, type Tpm } from "../../apps/device/tpm/tpm.ts";
import { AK_ATTRIBUTES, EK_RSA, signingKey } from "../../apps/device/tpm/templates.ts";
import { readPublic, readSignature } from "../../lib/attestation/index.ts";
import { concatBytes, toBase64 } from "../../lib/domain/bytes.ts";
import { assembleCsr, csrInfo } from "../../lib/pki/csr.ts";
import type { Challenge, ChallengeAnswer } from "../../services/attestation/attest.ts";

/** fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, sign */
export const DEVICE_KEY = 0x00040072;

/** A device whose key is a primary one of a TPM: made again from its template whenever it is needed. */
export interface TpmDevice {
  readonly id: string;
  readonly template: Uint8Array;
  readonly csr: Uint8Array;
}

let made = 0;

export async function tpmDevice(tpm: Tpm, attributes = DEVICE_KEY): Promise<TpmDevice> {
  const id = `dev-tpm-${process.pid}-${++made}`;
  // A number of its own in `unique`, which a TPM takes into the derivation.
  const template = concatBytes(signingKey(attributes).slice(0, -4), Uint8Array.of(0, 2, made >> 8, made & 0xff, 0, 0));
  try {
    const key = await tpm.createPrimary(HIERARCHY.owner, template);
    const info = csrInfo({ cn: id, spki: readPublic(key.publicArea, "the key").spki });
    const signed = await tpm.sign(key.handle, createHash("sha256").update(info).digest());
    const { algorithm, signature } = readSignature(signed, "p256");
    return { id, template, csr: assembleCsr(info, algorithm, signature) };
  } finally {
    await tpm.flushAll();
  }
}

export async function akPublic(tpm: Tpm, attributes = AK_ATTRIBUTES): Promise<string> {
  const { publicArea } = await tpm.createPrimary(HIERARCHY.endorsement, signingKey(attributes));
  await tpm.flushAll();
  return toBase64(publicArea);
}

/** What the device's TPM answers. */
export async function answerOf(tpm: Tpm, device: TpmDevice, challenge: Challenge): Promise<ChallengeAnswer> {
  try {
    const ak = await tpm.createPrimary(HIERARCHY.endorsement, signingKey(AK_ATTRIBUTES));
    const ek = await tpm.createPrimary(HIERARCHY.endorsement, EK_RSA);
    const secret = await tpm.activateCredential(ak.handle, ek.handle, challenge);
    await tpm.flush(ek.handle);
    const key = await tpm.createPrimary(HIERARCHY.owner, device.template);
    const { attest, signature } = await tpm.certify(key.handle, new Uint8Array(), ak.handle, challenge.nonce);
    return {
      secret: toBase64(secret),
      akParents: [],
      key: { public: toBase64(key.publicArea), parents: [] },
      attest: toBase64(attest),
      signature: toBase64(signature),
    };
  } finally {
    await tpm.flushAll();
  }
}
