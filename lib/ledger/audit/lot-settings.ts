import { fromBase64, fromUtf8, toHex, utf8 } from "../../domain/bytes.ts";
import { isCountersignError } from "../../domain/errors.ts";
import type { Certificate } from "../../pki/certificate.ts";
import { validityFor } from "../../pki/issuer.ts";
import { profileNamed } from "../../pki/profiles.ts";
import type { ActFields } from "../../records/acts.ts";
import { certificateSettings, type CertificateSettings } from "../../records/certificate-settings.ts";
import { wrong, type AuditState, type PartyState, type Placed } from "./state.ts";

/** What a lot's opening says of its certificates where their profile leaves a choice. */
export interface LotSettings {
  /** hex of the blob that the act pins; undefined: everything is left to the profile */
  readonly sha256: string | undefined;
  /** undefined where the bytes aren't at hand, or hold none */
  readonly settings: CertificateSettings | undefined;
}

/** Reads what lies beside the act. Bytes that are missing where all should be there are found elsewhere. */
export async function readLotSettings(
  at: Placed<"lot-opened">,
  party: PartyState,
  state: AuditState,
): Promise<LotSettings> {
  const [blob, second] = at.act.blobs.filter(({ name }) => name === "settings");
  if (blob === undefined) return { sha256: undefined, settings: {} };
  const unread = { sha256: blob.sha256, settings: undefined };
  const { lot } = at.act.fields;
  if (second !== undefined) {
    wrong(state, at, "lot-invalid", "it names two settings for its certificates", lot);
    return unread;
  }
  const bytes = await state.blob(party.id, blob.sha256);
  if (bytes === undefined) return unread;
  const settings = parsed(bytes);
  if (settings === undefined) wrong(state, at, "lot-invalid", "its certificate settings can't be read", lot);
  return { ...unread, settings };
}

function parsed(bytes: Uint8Array): CertificateSettings | undefined {
  try {
    return certificateSettings.safeParse(JSON.parse(fromUtf8(bytes))).data;
  } catch {
    return undefined;
  }
}

/**
 * Why the certificate is not as its lot's settings say, or undefined. Its validity follows from when it begins, the
 * settings (or the profile's default) and its issuer's end alone.
 * @param profileName of a device profile, which the certificate is known to fulfil
 */
export function settingsFault(
  certificate: Certificate,
  profileName: string,
  issuer: Certificate,
  settings: CertificateSettings,
): string | undefined {
  const { days, hardwareType } = settings;
  try {
    const { notAfter } = validityFor(profileNamed(profileName), certificate.notBefore, issuer, days);
    if (certificate.notAfter.getTime() !== notAfter.getTime()) {
      return `it ends ${certificate.notAfter.toISOString()}, by the lot's settings it would at ${notAfter.toISOString()}`;
    }
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    return `the lot's settings can't be fulfilled: ${error.message}`;
  }
  const modules = (certificate.san ?? []).flatMap((name) => (name.kind === "hardware-module" ? [name.value] : []));
  if (hardwareType === undefined) {
    return modules.length === 0 ? undefined : "it names a hardware module, and the lot's settings none";
  }
  const [module, second] = modules;
  const number = toHex(utf8(certificate.subject.cn ?? ""));
  if (second !== undefined || module?.hwType !== hardwareType || toHex(module.hwSerialNum) !== number) {
    return `it doesn't name its device as a hardware module of type ${hardwareType}, as the lot's settings say`;
  }
  return undefined;
}

/** Why the opening doesn't say of attestation what its settings do, or undefined. */
export function demandFault(
  { attestation }: ActFields<"lot-opened">,
  { settings }: LotSettings,
  state: AuditState,
): string | undefined {
  if (settings === undefined) return undefined;
  const roots = settings.attestation?.vendorRoots.map((root) => toHex(state.sha256(fromBase64(root))));
  return JSON.stringify(roots) === JSON.stringify(attestation?.vendorRoots)
    ? undefined
    : "it says otherwise than its settings which TPM vendors its devices need";
}
