import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { DerReader } from "../../lib/pki/der.ts";
import { oid } from "../../lib/pki/der-write.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import { certificateSettings, type CertificateSettings } from "../../lib/records/certificate-settings.ts";
import { sha256Hex } from "../ledger/index.ts";

/** One spelling for each choice: without keys that hold nothing. */
export function tidySettings({ days, hardwareType }: CertificateSettings = {}): CertificateSettings {
  return { ...(days === undefined ? {} : { days }), ...(hardwareType === undefined ? {} : { hardwareType }) };
}

/**
 * @throws CountersignError `profile-violation` when the profile leaves no such choice, before anything is built for it
 */
export function assertSettings(profileName: string, { days, hardwareType }: CertificateSettings): void {
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
