/** What a TPM 2 says of the keys in it: its structures, a verifier, and MakeCredential. */
export { readSignature } from "./certify-info.ts";
export { type Credential, type CredentialCrypto, makeCredential } from "./credential.ts";
export { tpm2b, TpmReader, u16, u32 } from "./cursor.ts";
export { ekSpkiOf, type EndorsedTpm, validateEkCertificate } from "./ek-certificate.ts";
export { evidenceOf, summaryOf } from "./record.ts";
export { type ObjectAttribute, type PublicArea, readPublic } from "./public-area.ts";
export {
  checkAttestationKey,
  MAX_EK_CERTIFICATES,
  MAX_PARENTS,
  type TpmAttestation,
  type TpmDemand,
  type TpmEvidence,
  verifyTpmAttestation,
} from "./verify.ts";
