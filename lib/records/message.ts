import { z } from "zod";
import {
  actRef,
  certificateDer,
  base64,
  httpsUrl,
  httpUrl,
  lotId,
  origin,
  partyId,
  profileRef,
  sha256Hex,
  slotNumber,
  spki,
  timestamp,
  vkey,
} from "./primitives.ts";
import { certificateSettings } from "./certificate-settings.ts";
import { grantTerms } from "./grant.ts";

/**
 * What crosses from one party to another. On the wire (POST /inbox, `application/vnd.countersign.envelope`): the DSSE
 * envelope as one line of JSON, a line feed, then the body's bytes. The envelope carries only the body's digest, so a
 * list of ten thousand devices is signed as cheaply as a note.
 */
export const MESSAGE_TYPES = [
  "join",
  "delegation",
  "acceptance",
  "grant-refused",
  "rotation",
  "handoff-release",
  "handoff-receipt",
  "recovered",
] as const;
export type MessageType = (typeof MESSAGE_TYPES)[number];

export const message = z.strictObject({
  schema: z.literal(1),
  id: z.uuid(),
  type: z.enum(MESSAGE_TYPES),
  sender: partyId,
  /** SHA-256 of the sender's act key SPKI */
  keyId: sha256Hex,
  receiver: partyId,
  /** rises when a party starts its numbering again after a recovery */
  epoch: z.int().min(1),
  /** 1, 2, 3 ... for each sender, receiver and epoch */
  sequence: z.int().min(1),
  /** SHA-256 of the previous envelope's DSSE bytes in this sequence; null for the first */
  previous: sha256Hex.nullable(),
  created: timestamp,
  expires: timestamp,
  inReplyTo: z.uuid().optional(),
  body: z.strictObject({
    sha256: sha256Hex,
    size: z
      .int()
      .min(0)
      .max(64 << 20),
  }),
});
export type Message = z.infer<typeof message>;

/** An entry of the sender's ledger, sent along so that the receiver can check it at once. */
const entry = base64(65_535);

/** How to reach and recognise a party. */
export const contact = z.strictObject({
  party: partyId,
  gateway: httpsUrl,
  /** base URL of the public, unauthenticated ledger, CRL and OCSP endpoints */
  publicUrl: httpUrl,
  /** PEM of the infrastructure CA that signs the gateway's TLS certificate */
  tlsCa: z.string().max(16_384),
  act: spki,
  origin,
  vkey,
  /** the verifier key of its witness, which answers below `publicUrl`/witness; absent: it runs none */
  witness: vkey.optional(),
});
export type Contact = z.infer<typeof contact>;

/** Handed to the child outside the system (a file); the nonce is spent by the first `join` that carries it. */
export const invitation = z.strictObject({
  schema: z.literal(1),
  id: z.uuid(),
  to: partyId,
  from: contact,
  nonce: z.string().regex(/^[A-Za-z0-9_-]{32,64}$/),
  expires: timestamp,
});
export type Invitation = z.infer<typeof invitation>;

export const BODIES = {
  join: z.strictObject({
    invitation: z.uuid(),
    nonce: z.string().regex(/^[A-Za-z0-9_-]{32,64}$/),
    contact,
    /** the child's PKCS#10 request, DER, with the nonce as challengePassword */
    csr: base64(16_384),
    /** the child's `keyset` act */
    keyset: entry,
    /** the earlier request that the keyset names as its CA key's proof, where a first join was refused */
    earlier: base64(16_384).optional(),
    /** its infrastructure CA certificate, DER */
    infrastructure: certificateDer,
  }),
  delegation: z.strictObject({
    /** the `delegation` act: the grant, with the child's certificate in it */
    act: entry,
    /** the issuers of the child's certificate, the parent first, the root last, DER */
    upstream: z.array(certificateDer).min(1).max(9),
  }),
  acceptance: z.strictObject({ act: entry }),
  /** a child doesn't take what a `delegation` says; what it has stays in force */
  "grant-refused": z.strictObject({
    /** leaf hash of the `delegation` act */
    grant: sha256Hex,
    code: z.string().regex(/^[a-z][a-z-]{0,63}$/),
    message: z.string().max(1000),
  }),
  /** a child asks for a CA certificate for another key: requests of both keys (rotation.ts) */
  rotation: z.strictObject({ supersedes: actRef, old: base64(2048), new: base64(2048) }),
  "handoff-release": z.strictObject({
    act: entry,
    /** what the taker needs to open the same lot */
    lot: z.strictObject({
      id: lotId,
      slots: slotNumber,
      profile: profileRef,
      layouts: z.array(z.unknown()).min(1).max(8),
      certificate: certificateSettings.optional(),
    }),
    items: z
      .array(
        z.strictObject({
          deviceId: z.string(),
          spkiSha256: sha256Hex,
          csrSha256: sha256Hex,
          slot: slotNumber,
          prev: sha256Hex,
        }),
      )
      .min(1)
      .max(200_000),
  }),
  "handoff-receipt": z.strictObject({ act: entry }),
  /** from a site whose database was restored: what it was sent after this is sent again */
  recovered: z.strictObject({
    act: entry,
    /** the last envelope of the receiver's that it still holds; sequence 0: none */
    received: z.strictObject({ epoch: z.int().min(1), sequence: z.int().min(0) }),
  }),
} as const satisfies Record<MessageType, z.ZodType>;
export type Body<T extends MessageType> = z.infer<(typeof BODIES)[T]>;

/** A delegation as an operator asks for it: `countersign delegate --grant FILE`. */
export const delegationRequest = z.strictObject({ to: partyId, grant: grantTerms });
export type DelegationRequest = z.infer<typeof delegationRequest>;
