import { OID } from "../oids.ts";
import type { ProfileData } from "../profile-schema.ts";

/** Delegated by the CA whose certificates it speaks of (RFC 6960 section 4.2.2.2). Short-lived, since nobody checks it. */
export const ocspResponder: ProfileData = {
  name: "ocsp-responder",
  version: 1,
  purpose: "Signs OCSP responses for the CA that issued it, so that the CA's own key needn't be at hand.",
  selfSigned: false,
  subject: {
    commonName: "required",
    commonNameForm: "any",
    country: "forbidden",
    organization: "optional",
    organizationalUnit: "optional",
    serialNumber: "forbidden",
  },
  basicConstraints: { ca: false },
  keyUsage: ["digitalSignature"],
  extKeyUsage: [OID.ocspSigning],
  subjectAltName: { presence: "forbidden", kinds: [] },
  crlDistributionPoint: "forbidden",
  nameConstraints: "forbidden",
  ocspNoCheck: true,
  validity: { defaultDays: 30, maxDays: 92, noExpiry: false },
  keyAlgorithms: ["ec-p256", "ec-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"],
};
