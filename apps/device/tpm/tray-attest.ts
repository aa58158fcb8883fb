import { DEVICE_KEY_LABEL } from "../../../hsm/index.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { Credential } from "../../../lib/attestation/index.ts";
import { chipOf, tpmStore, type Tray } from "../tray.ts";
import { answer, introduce, type Introduction } from "./attest.ts";
import { loadTokenKey } from "./pkcs11-store.ts";
import { Tpm } from "./tpm.ts";

export type TpmAnswer = Awaited<ReturnType<typeof answer>>;

/** Who asks, by whatever way: the site's gateway through a station. */
export interface Asker<T> {
  challenge(introduction: Introduction): Promise<Credential & { readonly id: string; readonly nonce: Uint8Array }>;
  answer(id: string, answer: TpmAnswer): Promise<T>;
}

/**
 * Attests the key in this device's TPM.
 * @throws CountersignError `usage` for a device without a TPM, `hsm-unavailable` when the TPM can't open the credential,
 *   those of {@link loadTokenKey}, and what the asker throws
 */
export async function attestFromTray<T>(tray: Tray, deviceId: string, asker: Asker<T>): Promise<T> {
  if (tray.tpm === undefined) {
    throw new CountersignError(
      "usage",
      `${tray.dir} is no TPM's: make the key with \`countersign device keygen --tpm\``,
    );
  }
  const { token, pin } = chipOf(tray, deviceId);
  const key = { token, label: DEVICE_KEY_LABEL, pinFile: pin.file };
  const tpm = await Tpm.open(tray.tpm);
  let id: string;
  let answered: TpmAnswer;
  try {
    await tpm.flushLeftOvers();
    const introduction = await introduce(tpm);
    const { id: challenge, ...asked } = await asker.challenge(introduction);
    id = challenge;
    answered = await answer(tpm, introduction, asked, () => loadTokenKey(tpm, tpmStore(tray), key));
  } finally {
    await tpm.close();
  }
  return await asker.answer(id, answered);
}
