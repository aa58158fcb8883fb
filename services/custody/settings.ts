import { fromBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { DerReader } from "../../lib/pki/der.ts";
import { oid } from "../../lib/pki/der-write.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import type { AttestationDemand } from "../../lib/records/attestation.ts";
import { certificateSettings, type CertificateSettings } from "../../lib/records/certificate-settings.ts";
import { sha256Hex } from "../ledger/index.ts";

/** One spelling for each choice: without keys that hold nothing. */
export function tidySettings({ days, hardwareType, attestation }: CertificateSettings = {}): CertificateSettings {
  return {
    ...(days === undefined ? {} : { days }),
    ...(hardwareType === undefined ? {} : { hardwareType }),
    ...(attestation === undefined ? {} : { attestation }),
  };
}

/** What the act that opens the lot says of its demand, for readers without the settings. */
export function demandOf({ attestation }: CertificateSettings): { attestation?: AttestationDemand } {
  if (attestation === undefined) return {};
  const vendorRoots = attestation.vendorRoots.map((root) => sha256Hex(fromBase64(root)));
  return { attestation: { kind: attestation.kind, vendorRoots } };
}

/**
 * @throws CountersignError `profile-violation` when the profile leaves no such choice, before anything is built for it
 */
export function assertSettings(profileName: string, { days, hardwareType, attestation }: CertificateSettings): void {
  attestation?.vendorRoots.forEach(assertRoot);
  const { validity, subjectAltName } = profileNamed(profileName);
  if (days === "no-expiry" && !validity.noExpiry) {
    throw new CountersignError("profile-violation", `certificates of profile ${profileName} always expire`);
  }
  if (typeof days === "number" && days > validity.maxDays) {
    throw new CountersignError(
      "profile-violation",
      `certificates of profile ${profileName} are valid ${validity.maxDays} days at most, not ${days}`,
    );
  }
  if (hardwareType !== undefined && !subjectAltName.kinds.includes("hardware-module")) {
    throw new CountersignError(
      "profile-violation",
      `certificates of profile ${profileName} carry no hardware module name: leave the hardware type out, or use idevid`,
    );
  }
  if (hardwareType !== undefined && !isReadBack(hardwareType)) {
    throw new CountersignError(
      "profile-violation",
      `the hardware type ${hardwareType} is no OID: under 0 and 1 the second arc is at most 39`,
    );
  }
}

/** @throws CountersignError `profile-violation` */
function assertRoot(root: string): void {
  let certificate: Certificate | undefined;
  try {
    certificate = parseCertificate(fromBase64(root));
  } catch (error) {
    if (!isCountersignError(error) && !(error instanceof RangeError)) throw error;
  }
  if (certificate?.basicConstraints?.ca === true && certificate.selfIssued) return;
  throw new CountersignError("profile-violation", "a TPM vendor's root is no self-issued CA certificate");
}

/** An OID's first two arcs share an octet: of one that breaks its bounds a certificate would hold another. */
function isReadBack(dotted: string): boolean {
  try {
    return new DerReader(oid(dotted)).oid() === dotted;
  } catch {
    return false;
  }
}

/** What lies beside the act that opens the lot; nothing for a lot that leaves everything to its profile. */
export function settingsBlobs(settings: CertificateSettings): { name: string; sha256: string; bytes: Uint8Array }[] {
  if (Object.keys(settings).length === 0) return [];
  const bytes = canonicalJson(settings);
  return [{ name: "settings", sha256: sha256Hex(bytes), bytes }];
}

/** @throws CountersignError `input-invalid` for bytes that aren't settings */
export function readSettings(bytes: Uint8Array): CertificateSettings {
  const parsed = certificateSettings.safeParse(JSON.parse(Buffer.from(bytes).toString("utf8")));
  if (parsed.success) return tidySettings(parsed.data);
  throw new CountersignError("input-invalid", "the lot's certificate settings can't be read");
}
