/** What the hub's management API answers its operator, as the command line shows it. */

export interface HubCaShown {
  name: string;
  state: "unverified" | "verified";
  sha256: string | null;
  createdAt: string;
  verifiedAt: string | null;
  disabledAt: string | null;
  enrolment: "first-connect" | "registered";
  unlogged: "allow" | "alarm" | "refuse";
  code?: string;
  codeExpiresAt?: string;
}

export interface HubBlockShown {
  kind: "certificate" | "key";
  sha256: string;
  /** by hand, or with a revocation by its issuer */
  source: "operator" | "revocation";
  name: string | null;
  reason: string;
  blockedBy: string;
  createdAt: string;
}

export interface HubCrlShown {
  name: string;
  url: string | null;
  thisUpdate: string | null;
  nextUpdate: string | null;
  fault: string | null;
  lookedAt: string | null;
}

export interface HubMonitorShown {
  ledgers: {
    party: string;
    origin: string;
    entries: number;
    size: number;
    state: "followed" | "refused" | "behind" | "unreachable" | null;
    error: string | null;
    followedAt: string | null;
  }[];
  alarms: { id: number; code: string; party: string; subject: string; message: string; since: string }[];
}

export interface HubGroupShown {
  name: string;
  query: string;
  disabledAt: string | null;
  enrolment: string | null;
  scopes: string[] | null;
  createdAt: string;
}

export interface HubDeviceShown {
  deviceId: string;
  state: "enabled" | "disabled";
  createdAt: string;
  caName: string | null;
  firstConnectedAt: string | null;
  lastConnectedAt: string | null;
  chain: { sha256: string; commonName: string | null; serial: string; notAfter: string }[] | null;
  /** Present when one device is shown. */
  telemetry?: number;
}

export interface HubDevicesSet {
  state: "enabled" | "disabled";
  set: number;
  unknown: string[];
}

/** What verified passports say of devices; times RFC 3339. */
export interface HubPassportShown {
  deviceId: string;
  keySha256: string;
  passportSha256: string;
  facts: Record<string, string | string[]>;
  takenBy: string;
  takenAt: string;
}

export interface HubTrustShown {
  rootSha256: string;
  policySha256: string;
  logs: string[];
  setBy: string;
  setAt: string;
}

export interface HubMessageShown {
  id: number;
  system: Record<string, string>;
  properties: Record<string, string>;
  /** base64 */
  body: string;
  enqueuedAt: string;
  expiresAt: string;
  deliveries: number;
}

export interface HubTwinShown {
  deviceId: string;
  desired: Record<string, unknown>;
  desiredVersion: number;
  reported: Record<string, unknown>;
  reportedVersion: number;
}

export interface HubEnrollmentGroupShown {
  name: string;
  caName: string;
  state: "enabled" | "disabled";
  createdAt: string;
}
