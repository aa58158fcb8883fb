import type { ProfileData } from "../profile-schema.ts";

export const root: ProfileData = {
  name: "root",
  version: 1,
  purpose: "A manufacturer's root: signs its factories' CAs, its CRL and the hub's verification certificate.",
  selfSigned: true,
  subject: {
    commonName: "required",
    commonNameForm: "any",
    country: "optional",
    organization: "optional",
    organizationalUnit: "optional",
    serialNumber: "forbidden",
  },
  basicConstraints: { ca: true, pathLen: "optional", maxPathLen: 7 },
  keyUsage: ["keyCertSign", "cRLSign"],
  extKeyUsage: [],
  subjectAltName: { presence: "forbidden", kinds: [] },
  crlDistributionPoint: "forbidden",
  nameConstraints: "forbidden",
  validity: { defaultDays: 9131, maxDays: 10957, noExpiry: true },
  keyAlgorithms: ["ec-p256", "ec-p384", "ed25519", "rsa-3072", "rsa-4096"],
};
