import { z } from "zod";
import { attestedFields, attestationDemand } from "./attestation.ts";
import { grant } from "./grant.ts";
import { keyset } from "./keyset.ts";
import { intake } from "./manifest.ts";
import {
  actRef,
  auditPath,
  certificateDer,
  lotId,
  MAX_SHOWN_CERTIFICATE,
  partyId,
  profileRef,
  serialHex,
  sha256Hex,
  slotNumber,
  timestamp,
  spki,
  base64,
} from "./primitives.ts";
import { FIRMWARE_FORMATS, receipt } from "./receipt.ts";
import { rotated } from "./rotation.ts";

/**
 * The fields that each act type adds to the common ones (statement.ts), the class it belongs to, and whose key signs it.
 * A signed act without its signature is invalid; a line record is signed through its ledger's checkpoint.
 * Types that aren't here don't exist yet: an unknown type is refused.
 */

const layoutRef = z.strictObject({
  format: z.enum(FIRMWARE_FORMATS),
  /** of the canonical JSON of the layout */
  sha256: sha256Hex,
  template: z.strictObject({ name: z.string().min(1).max(128), sha256: sha256Hex }),
});

const treeHead = z.strictObject({ size: z.int().min(0), root: sha256Hex });

const handoffFields = {
  id: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$/),
  lot: lotId,
  from: partyId,
  to: partyId,
  count: z.int().min(0),
  /** RFC 6962 root over the list's items (manifest.ts, handoffItem) */
  listRoot: sha256Hex,
  discrepancies: z.array(z.string().max(200)).max(100),
};

/** Why a certificate may be revoked for good (RFC 5280 section 5.3.1); the others mean nothing here. */
export const REVOCATION_REASONS = [
  "unspecified",
  "keyCompromise",
  "cACompromise",
  "affiliationChanged",
  "superseded",
  "cessationOfOperation",
  "privilegeWithdrawn",
] as const;

const revocationFields = {
  target: z.enum(["device", "ca"]),
  /** which certificate: the act of this ledger that holds it, its serial number, the digest of its DER */
  certificate: z.strictObject({ act: sha256Hex, serial: serialHex, sha256: sha256Hex }),
};

export const ACT_FIELDS = {
  keyset: z.strictObject({ keyset }),
  ceremony: z.strictObject({
    document: z.strictObject({ sha256: sha256Hex }),
    root: certificateDer,
    keyset,
    crl: base64(65_536),
    approvals: z.array(actRef).max(16),
  }),
  delegation: grant,
  acceptance: z.strictObject({
    /** the child's own keyset act */
    keyset: actRef,
    /** SHA-256 over the concatenated DER of the child's chain, its own certificate first, root last */
    chainSha256: sha256Hex,
  }),
  "lot-opened": z.strictObject({
    lot: lotId,
    builder: partyId,
    issuer: partyId,
    slots: slotNumber,
    profile: profileRef,
    /** slot n uses layouts[(n - 1) mod length] */
    layouts: z.array(layoutRef).min(1).max(8),
    /** devices without an `attested` act aren't certified */
    attestation: attestationDemand.optional(),
  }),
  built: z.strictObject({ lot: lotId, slot: slotNumber, spki, csrSha256: sha256Hex, intake }),
  "handoff-released": z.strictObject(handoffFields),
  "handoff-received": z.strictObject({ ...handoffFields, counterpart: actRef }),
  intent: z.strictObject({
    lot: lotId,
    manifest: sha256Hex,
    /** RFC 6962 root over the SHA-256 digests of the TBS bytes about to be signed */
    tbsRoot: sha256Hex,
    count: z.int().min(1),
  }),
  attested: attestedFields,
  certified: z.strictObject({
    lot: lotId,
    slot: slotNumber,
    profile: profileRef,
    certificate: certificateDer,
    purpose: z.enum(["initial", "renewal"]),
    renews: actRef.optional(),
    intake,
    /** the intent leaf, and this certificate's TBS digest in its tree */
    intent: z.strictObject({ leafHash: sha256Hex, index: z.int().min(0), path: auditPath }),
  }),
  injected: z.strictObject({
    lot: lotId,
    slot: slotNumber,
    receipt,
    layoutSha256: sha256Hex,
    chains: z
      .array(
        z.strictObject({
          purpose: z.enum(["idevid", "ldevid"]),
          sha256: sha256Hex,
          certificates: z.int().min(1).max(10),
        }),
      )
      .min(1)
      .max(2),
    readBack: z.strictObject({ sha256: sha256Hex, leafKeyMatches: z.literal(true) }),
  }),
  installed: z.strictObject({
    lot: lotId,
    slot: slotNumber,
    /** key id of the technician who signed the manifest that `intake` names */
    technician: sha256Hex,
    intake,
    place: sha256Hex,
    time: sha256Hex,
  }),
  revoked: z.discriminatedUnion("effect", [
    /** for good */
    z.strictObject({
      ...revocationFields,
      effect: z.literal("final"),
      reason: z.enum(REVOCATION_REASONS),
      /** since when it isn't to be trusted, where that is earlier (RFC 5280 section 5.3.2) */
      invalidity: timestamp.optional(),
    }),
    /** until it is lifted or made final: certificateHold */
    z.strictObject({ ...revocationFields, effect: z.literal("hold") }),
    z.strictObject({ ...revocationFields, effect: z.literal("lift") }),
  ]),
  rotated,
  "hub-registered": z.strictObject({ hub: z.string().min(1).max(128), caSha256: sha256Hex, codeSha256: sha256Hex }),
  alarm: z.discriminatedUnion("what", [
    /** a certificate that a CA key of the party signed and its ledger doesn't hold */
    z.strictObject({
      what: z.literal("unlogged-certificate"),
      evidence: z.union([
        z.strictObject({ certificate: certificateDer }),
        /** one that no entry has room for: its digest is the subject's, the key's that of its SPKI, `size` in bytes */
        z.strictObject({ caKey: sha256Hex, size: z.int().min(MAX_SHOWN_CERTIFICATE + 1) }),
      ]),
    }),
    /** the CA key's token counted more signatures, from `since` to `counted`, than the party asked it for in that time */
    z.strictObject({
      what: z.literal("unaccounted-signatures"),
      evidence: z.strictObject({
        /** SHA-256 of the key's SPKI */
        caKey: sha256Hex,
        counted: z.int().min(0),
        since: z.int().min(0),
        accounted: z.int().min(0),
      }),
    }),
    /** the token's count of the CA key's signatures went back: what was signed in between can't be counted any more */
    z.strictObject({
      what: z.literal("signature-counter-set-back"),
      evidence: z.strictObject({
        /** SHA-256 of the key's SPKI */
        caKey: sha256Hex,
        counted: z.int().min(0),
        /** what it counted before, and when it was last seen to */
        before: z.int().min(1),
        seen: timestamp,
      }),
    }),
  ]),
  recovered: z.strictObject({
    /** the ledger as the database held it after it was restored from a backup */
    restored: treeHead,
    /** the signed checkpoint that it was rebuilt up to, from what had been published */
    rebuilt: treeHead,
  }),
} as const;

export type ActType = keyof typeof ACT_FIELDS;
export type ActFields<T extends ActType> = z.infer<(typeof ACT_FIELDS)[T]>;

export interface ActClass {
  readonly class: "signed" | "line";
  /** whose key signs a signed act */
  readonly signer?: "act";
}

const SIGNED: ActClass = { class: "signed", signer: "act" };
const LINE: ActClass = { class: "line" };

export const ACT_CLASSES: Readonly<Record<ActType, ActClass>> = {
  keyset: SIGNED,
  ceremony: SIGNED,
  delegation: SIGNED,
  acceptance: SIGNED,
  "lot-opened": SIGNED,
  built: LINE,
  "handoff-released": SIGNED,
  "handoff-received": SIGNED,
  intent: LINE,
  attested: LINE,
  certified: LINE,
  injected: LINE,
  installed: LINE,
  revoked: SIGNED,
  rotated: SIGNED,
  "hub-registered": SIGNED,
  alarm: SIGNED,
  recovered: SIGNED,
};

export const ACT_TYPES = Object.keys(ACT_FIELDS) as ActType[];
