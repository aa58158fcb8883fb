import { z } from "zod";
import { auditPath, base64, certificateDer, deviceId, origin, sha256Hex } from "./primitives.ts";

const note = z.string().min(1).max(16_384);

/**
 * One file that proves a device's history offline. It lies beside the firmware image, never inside the bytes whose
 * digest it logs. `acts` are in causal order; a verifier needs the root and the policy and nothing else.
 */
export const passport = z.strictObject({
  schema: z.literal(1),
  device: z.strictObject({ id: deviceId, spkiSha256: sha256Hex }),
  /** SHA-256 of the policy it was made under (canonical JSON) */
  policySha256: sha256Hex,
  chains: z
    .array(
      z.strictObject({ purpose: z.enum(["idevid", "ldevid"]), certificates: z.array(certificateDer).min(1).max(10) }),
    )
    .min(1)
    .max(2),
  logs: z
    .array(
      z.strictObject({
        origin,
        /** the first checkpoint that includes every act below, with its signatures */
        checkpoint: note,
        /** the last known checkpoint that doesn't include the newest of them: bounds the time from below */
        before: note.optional(),
      }),
    )
    .min(1)
    .max(16),
  acts: z
    .array(z.strictObject({ origin, index: z.int().min(0), entry: base64(65_535), path: auditPath }))
    .min(1)
    .max(64),
  /** DSSE manifests that line records name, and lists' blobs are not among them: a path in the record stands for those */
  manifests: z.array(z.strictObject({ sha256: sha256Hex, dsse: base64(16_384) })).max(8),
  /** salted values that the holder chose to show */
  openings: z
    .array(z.strictObject({ commitment: sha256Hex, domain: z.string().max(64), salt: sha256Hex, value: z.unknown() }))
    .max(16),
});
export type Passport = z.infer<typeof passport>;
