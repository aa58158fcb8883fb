import { z } from "zod";
import { base64, certificateDer, deviceId, lotId, sha256Hex, slotNumber } from "./primitives.ts";

/** What a device's TPM 2 says of its key: the evidence that lies beside the ledger, and what its verifier made of it. */

/** What a lot's opening demands, for readers of the act alone. */
export const attestationDemand = z.strictObject({
  kind: z.literal("tpm2"),
  /** SHA-256 of the DER of each root that the lot's settings hold */
  vendorRoots: z.array(sha256Hex).min(1).max(8),
});
export type AttestationDemand = z.infer<typeof attestationDemand>;

const tpmStructure = (max: number) => base64(max);
const publicArea = tpmStructure(1024);
const parents = z.array(publicArea).max(4);

/** The structures as the TPM marshals them (TPM 2.0 Library Part 2), without a TPM2B's length around them. */
export const tpmEvidence = z.strictObject({
  /** DER: the endorsement key's certificate first, the vendor's root left out */
  ekCertificates: z.array(certificateDer).min(1).max(5),
  /** TPMT_PUBLIC of the attestation key, and of what it lies under from the primary key down */
  ak: z.strictObject({ public: publicArea, parents }),
  /** the same of the device's key */
  key: z.strictObject({ public: publicArea, parents }),
  /** TPMS_ATTEST and TPMT_SIGNATURE of TPM2_Certify */
  attest: tpmStructure(2048),
  signature: tpmStructure(1100),
});
export type TpmEvidenceRecord = z.infer<typeof tpmEvidence>;

/** A blob named `attestation` that the `attested` act pins, canonical JSON: whoever has it can verify it again. */
export const attestationRecord = z.strictObject({
  schema: z.literal(1),
  kind: z.literal("tpm2"),
  deviceId,
  lot: lotId,
  /** the nonce that was asked with, hex */
  nonce: sha256Hex,
  evidence: tpmEvidence,
});
export type AttestationRecord = z.infer<typeof attestationRecord>;

/** A Name by SHA-256, SHA-384 or SHA-512, with its TPM_ALG_ID. */
const tpmName = z.string().regex(/^(000b[0-9a-f]{64}|000c[0-9a-f]{96}|000d[0-9a-f]{128})$/, "expected a TPM name");
const counter = z.int().min(0).max(0xffffffff);
const printable = z.string().regex(/^[ -~]{1,128}$/);

export const attestedFields = z.strictObject({
  lot: lotId,
  slot: slotNumber,
  kind: z.literal("tpm2"),
  /** of the blob that holds the evidence */
  evidence: sha256Hex,
  /** the TPM, as its vendor's certificate names it */
  tpm: z.strictObject({
    manufacturer: printable,
    model: printable,
    version: printable,
    /** of the DER of the endorsement key's certificate, and of the vendor's root */
    ekCertificate: sha256Hex,
    root: sha256Hex,
  }),
  /** Names of the attestation key and of the device's key */
  ak: tpmName,
  key: tpmName,
  /** the attestation key opened a credential that only the endorsement key's TPM could */
  activated: z.literal(true),
  /** what the TPM reported as it certified; its clock in milliseconds */
  clock: z.strictObject({
    milliseconds: z.string().regex(/^\d{1,20}$/),
    resetCount: counter,
    restartCount: counter,
    safe: z.boolean(),
  }),
  /** TPM firmware version as the TPM has it, hex */
  firmware: z.string().regex(/^[0-9a-f]{16}$/),
});
export type AttestedFields = z.infer<typeof attestedFields>;
