import { OID_HUB_VERIFICATION } from "../oids.ts";
import type { ProfileData } from "../profile-schema.ts";

/** The CN is the hub's code. The key purpose is our own, so that the certificate can't pass for a device's. */
export const hubVerification: ProfileData = {
  name: "hub-verification",
  version: 1,
  purpose: "Proof to a hub that its registrant holds the CA's key: the CN is the verification code the hub gave.",
  selfSigned: false,
  subject: {
    commonName: "required",
    commonNameForm: "any",
    country: "forbidden",
    organization: "forbidden",
    organizationalUnit: "forbidden",
    serialNumber: "forbidden",
  },
  basicConstraints: { ca: false },
  keyUsage: ["digitalSignature"],
  extKeyUsage: [OID_HUB_VERIFICATION],
  subjectAltName: { presence: "forbidden", kinds: [] },
  crlDistributionPoint: "forbidden",
  nameConstraints: "forbidden",
  validity: { defaultDays: 7, maxDays: 30, noExpiry: false },
  keyAlgorithms: ["ec-p256", "ec-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"],
};
