import { z } from "zod";
import { certificateDer } from "./primitives.ts";

/**
 * What a lot's certificates say where their profile leaves a choice, and what is asked of a device before it gets one. Beside the lot's `lot-opened` act as canonical JSON,
 * a blob named `settings` that the act pins; a lot without a choice has none.
 */
export const certificateSettings = z.strictObject({
  /** how long a certificate is valid, days from its issuance; nested in its issuer's validity */
  days: z.union([z.int().min(1).max(100_000), z.literal("no-expiry")]).optional(),
  /**
   * OID of the hardware's type: each certificate then carries a HardwareModuleName (RFC 4108 section 5, as IEEE 802.1AR
   * suggests) of this type, whose number is the device ID's octets
   */
  hardwareType: z
    .string()
    .max(128)
    .regex(/^[0-2](\.(0|[1-9]\d{0,19})){1,20}$/, "expected a dotted OID")
    .optional(),
  /**
   * no device without proof that its key was made in a TPM 2 of one of these vendors, and can't leave it; see
   * attestation.ts
   */
  attestation: z
    .strictObject({
      kind: z.literal("tpm2"),
      /** root certificates, DER, under which the vendors certify endorsement keys */
      vendorRoots: z.array(certificateDer).min(1).max(8),
      /** seconds that a challenge may be answered within; 300 unless given */
      deadline: z.int().min(10).max(86_400).optional(),
    })
    .optional(),
});
export type CertificateSettings = z.infer<typeof certificateSettings>;
