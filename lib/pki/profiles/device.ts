import { OID } from "../oids.ts";
import type { ProfileData } from "../profile-schema.ts";

const common = {
  version: 1,
  selfSigned: false,
  subject: {
    commonName: "required",
    commonNameForm: "device-id",
    country: "forbidden",
    organization: "optional",
    organizationalUnit: "forbidden",
    serialNumber: "forbidden",
  },
  basicConstraints: { ca: false },
  keyUsage: ["digitalSignature"],
  subjectAltName: { presence: "forbidden", kinds: [] },
  crlDistributionPoint: "optional",
  nameConstraints: "forbidden",
  keyAlgorithms: ["ec-p256", "ec-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"],
} satisfies Partial<ProfileData>;

/** The hardware's own name (RFC 4108: who numbers it, and its number) can go with it, as IEEE 802.1AR suggests. */
export const idevid: ProfileData = {
  ...common,
  name: "idevid",
  subject: { ...common.subject, serialNumber: "optional" },
  subjectAltName: { presence: "optional", kinds: ["hardware-module"] },
  purpose: "IEEE 802.1AR initial device identity: for the device's life, not renewed, not bound to one use.",
  extKeyUsage: [],
  validity: { defaultDays: 7305, maxDays: 9131, noExpiry: true },
};

export const ldevid: ProfileData = {
  ...common,
  name: "ldevid",
  purpose: "IEEE 802.1AR locally significant device identity: a device's TLS client certificate, renewed.",
  extKeyUsage: [OID.clientAuth],
  validity: { defaultDays: 365, maxDays: 1096, noExpiry: false },
};
