import { z } from "zod";

/**
 * What a lot's certificates say where their profile leaves a choice. Beside the lot's `lot-opened` act as canonical JSON,
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
});
export type CertificateSettings = z.infer<typeof certificateSettings>;
