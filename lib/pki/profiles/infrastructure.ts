import { OID } from "../oids.ts";
import type { ProfileData } from "../profile-schema.ts";

const subject = {
  commonName: "required",
  commonNameForm: "any",
  country: "forbidden",
  organization: "optional",
  organizationalUnit: "optional",
  serialNumber: "forbidden",
} as const;

/** A site's own CA for its machines and people, outside the device root. pathLen 0: it can't make CAs. */
export const infraCa: ProfileData = {
  name: "infra-ca",
  version: 1,
  purpose: "One site's infrastructure CA: its servers, stations and operators. Never part of a device's chain.",
  selfSigned: true,
  subject,
  basicConstraints: { ca: true, pathLen: "required", maxPathLen: 0 },
  keyUsage: ["keyCertSign", "cRLSign"],
  extKeyUsage: [],
  subjectAltName: { presence: "forbidden", kinds: [] },
  crlDistributionPoint: "forbidden",
  nameConstraints: "forbidden",
  validity: { defaultDays: 1826, maxDays: 3653, noExpiry: false },
  keyAlgorithms: ["ec-p256", "ec-p384", "ed25519", "rsa-3072", "rsa-4096"],
};

export const server: ProfileData = {
  name: "server",
  version: 1,
  purpose: "A site's TLS server: gateway or hub.",
  selfSigned: false,
  subject,
  basicConstraints: { ca: false },
  keyUsage: ["digitalSignature"],
  extKeyUsage: [OID.serverAuth],
  subjectAltName: { presence: "required", kinds: ["dns", "ip"] },
  crlDistributionPoint: "optional",
  nameConstraints: "forbidden",
  validity: { defaultDays: 398, maxDays: 398, noExpiry: false },
  keyAlgorithms: ["ec-p256", "ec-p384"],
};

/** A person's or a machine's client certificate below the infrastructure CA. */
export const client: ProfileData = {
  name: "client",
  version: 1,
  purpose: "A TLS client of a site: signatures over TLS handshakes and batch manifests. The OU, if any, is its role.",
  selfSigned: false,
  subject,
  basicConstraints: { ca: false },
  keyUsage: ["digitalSignature"],
  extKeyUsage: [OID.clientAuth],
  subjectAltName: { presence: "forbidden", kinds: [] },
  crlDistributionPoint: "optional",
  nameConstraints: "forbidden",
  validity: { defaultDays: 398, maxDays: 825, noExpiry: false },
  keyAlgorithms: ["ec-p256", "ec-p384", "ed25519", "rsa-3072", "rsa-4096"],
};

function inRole(role: string, purpose: string): ProfileData {
  return {
    ...client,
    name: role,
    purpose,
    subject: { ...subject, organization: "required", organizationalUnit: "required", role },
    validity: { defaultDays: 398, maxDays: 398, noExpiry: false },
  };
}

export const operator = inRole("operator", "A person who runs a site: opens lots, approves, invites, hands off.");
export const station = inRole("station", "A machine on a line: posts CSRs and signs the manifests of its batches.");
export const monitor = inRole("monitor", "Another service that reports certificates it has seen: a hub.");
export const technician = inRole("technician", "A person who installs devices, and signs where and when.");
