import { z } from "zod";
import { opening } from "./opening.ts";
import { base64, deviceId, origin, partyId, sha256Hex, timestamp } from "./primitives.ts";

/** Limits of a passport's file, so that a hostile one costs a verifier little. */
export const MAX_PASSPORT_BYTES = 1 << 20;

const note = z.string().min(1).max(16_384);
const index = z.int().min(0);

/** A reference into `values`, or a short value itself. What it stands for is checked when it is unpacked. */
const packedText = z.string().min(1).max(32_768);
const packedObject = z.record(z.string().max(64), z.unknown());
/** key id and signature */
const signature = z.tuple([packedText, base64(1024)]);

/**
 * One file that proves a device's history offline. It lies beside the firmware image, never inside the bytes whose
 * digest it logs. `acts` are in causal order; a verifier needs the root and the policy and nothing else.
 *
 * Everything that recurs is there once: SHA-256 values in `hashes`, other values in `values`; acts and manifests refer to
 * them (docs/passport.md, "Packed values"). What a reference stands for is authenticated where it is used.
 */
export const passport = z.strictObject({
  schema: z.literal(2),
  device: z.strictObject({ id: deviceId, spkiSha256: sha256Hex }),
  /** SHA-256 of the policy it was made under (canonical JSON) */
  policySha256: sha256Hex,
  /** SHA-256 values one after the other, 32 bytes each */
  hashes: base64(4096 * 32),
  values: z.array(z.unknown()).max(1024),
  chains: z
    .array(z.strictObject({ purpose: z.enum(["idevid", "ldevid"]), certificates: z.array(packedText).min(1).max(10) }))
    .min(1)
    .max(2),
  logs: z
    .array(
      z.strictObject({
        origin,
        /** whose ledger it is */
        party: partyId,
        /** the first checkpoint that includes every act below, with the signatures that the policy asks for */
        checkpoint: note,
        /** the last known checkpoint that doesn't include the newest of them: bounds the time from below */
        before: note.optional(),
      }),
    )
    .min(1)
    .max(16),
  acts: z
    .array(
      z.strictObject({
        /** position in `logs` */
        log: z.int().min(0).max(15),
        index,
        /** from here to `fields` what its in-toto Statement is made of, packed; origin and party are the log's */
        type: z.string().regex(/^[a-z-]{1,40}$/),
        /** name and SHA-256 */
        subject: z.tuple([packedText, packedText]),
        time: timestamp,
        retryKey: packedText,
        grant: z.union([packedText, packedObject]).optional(),
        prev: z.array(z.unknown()).max(8).optional(),
        blobs: z.array(z.unknown()).max(16).optional(),
        fields: packedObject,
        /** of a signed act: the signatures of its DSSE envelope */
        signatures: z.array(signature).min(1).max(16).optional(),
        /**
         * inclusion proof, leaf's sibling first, without what earlier acts' proofs have shown: runs of hashes, each as its
         * first position and its length
         */
        path: z.array(index).max(126),
      }),
    )
    .min(1)
    .max(64),
  /** the signed batches that line records name; a list's blob is not among them: a path in the record stands for it */
  manifests: z
    .array(
      z.union([
        z.strictObject({ payload: packedObject, signatures: z.array(signature).min(1).max(16) }),
        /** an envelope that isn't canonical JSON, as it is */
        z.strictObject({ dsse: base64(16_384) }),
      ]),
    )
    .max(8),
  /** salted values that the holder chose to show */
  openings: z.array(opening).max(16),
});
export type Passport = z.infer<typeof passport>;
