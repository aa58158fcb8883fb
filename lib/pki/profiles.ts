import { CountersignError } from "../domain/errors.ts";
import { sha256Hex } from "../domain/hash.ts";
import { canonicalJson } from "../domain/json.ts";
import { parseProfile, type Profile } from "./profile-schema.ts";
import { idevid, ldevid } from "./profiles/device.ts";
import { hubVerification } from "./profiles/hub-verification.ts";
import { client, infraCa, monitor, operator, server, station, technician } from "./profiles/infrastructure.ts";
import { intermediateEmbedded, intermediateLinux } from "./profiles/intermediate.ts";
import { ocspResponder } from "./profiles/ocsp-responder.ts";
import { root } from "./profiles/root.ts";

export type { Profile } from "./profile-schema.ts";

/** Every profile by name, validated as this module loads. */
export const PROFILES = {
  root: parseProfile(root),
  "intermediate-embedded": parseProfile(intermediateEmbedded),
  "intermediate-linux": parseProfile(intermediateLinux),
  idevid: parseProfile(idevid),
  ldevid: parseProfile(ldevid),
  "hub-verification": parseProfile(hubVerification),
  "ocsp-responder": parseProfile(ocspResponder),
  "infra-ca": parseProfile(infraCa),
  server: parseProfile(server),
  client: parseProfile(client),
  operator: parseProfile(operator),
  station: parseProfile(station),
  monitor: parseProfile(monitor),
  technician: parseProfile(technician),
} as const satisfies Record<string, Profile>;

export type ProfileName = keyof typeof PROFILES;

/** @throws CountersignError `profile-invalid` for an unknown name */
export function profileNamed(name: string): Profile {
  if (Object.hasOwn(PROFILES, name)) return PROFILES[name as ProfileName];
  const known = Object.keys(PROFILES).join(", ");
  throw new CountersignError(
    "profile-invalid",
    `no certificate profile is named ${JSON.stringify(name)}; use ${known}`,
  );
}

/** What grants and records pin: lower-case hex SHA-256 of the profile's RFC 8785 canonical JSON. */
export function profileDigest(name: string): string {
  return sha256Hex(canonicalJson(profileNamed(name)));
}
