import type { ProfileData } from "../profile-schema.ts";

const common = {
  version: 1,
  selfSigned: false,
  subject: {
    commonName: "required",
    commonNameForm: "any",
    country: "optional",
    organization: "optional",
    organizationalUnit: "optional",
    serialNumber: "forbidden",
  },
  basicConstraints: { ca: true, pathLen: "required", maxPathLen: 6 },
  keyUsage: ["keyCertSign", "cRLSign"],
  extKeyUsage: [],
  subjectAltName: { presence: "forbidden", kinds: [] },
  crlDistributionPoint: "optional",
  validity: { defaultDays: 3653, maxDays: 9131, noExpiry: true },
  keyAlgorithms: ["ec-p256", "ec-p384", "ed25519", "rsa-3072", "rsa-4096"],
} satisfies Partial<ProfileData>;

/** No name constraints: mbedTLS refuses critical ones. The grant and the hub enforce the device-ID namespace. */
export const intermediateEmbedded: ProfileData = {
  ...common,
  name: "intermediate-embedded",
  purpose: "A factory's or technician's CA whose chains small devices parse (mbedTLS): without name constraints.",
  nameConstraints: "forbidden",
};

/** Devices below such a CA must carry a permitted organisation in their subject. */
export const intermediateLinux: ProfileData = {
  ...common,
  name: "intermediate-linux",
  purpose: "A factory's or technician's CA for devices with a full TLS stack: critical directoryName constraints.",
  nameConstraints: "required",
};
