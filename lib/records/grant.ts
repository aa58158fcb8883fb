import { z } from "zod";
import { actRef, certificateDer, partyId, profileRef, sha256Hex, spki, timestamp } from "./primitives.ts";
import { keyset } from "./keyset.ts";

const idPrefix = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,40}$/, "expected the beginning of a device ID");

/** What a parent allows a child: who may be signed, how many, when, how deep it may delegate on, and whether it builds. */
export const grantTerms = z
  .strictObject({
    idPrefixes: z.array(idPrefix).min(1).max(64),
    profiles: z
      .array(z.string().regex(/^[a-z0-9-]{1,40}$/))
      .min(1)
      .max(16),
    quota: z.int().min(0).max(1_000_000_000),
    notBefore: timestamp,
    notAfter: timestamp,
    pathLen: z.int().min(0).max(8),
    depth: z.int().min(0).max(8),
    /** may open lots as their builder: say that a device was made, before anybody certifies it */
    mayBuild: z.boolean().default(false),
    caProfile: z.enum(["intermediate-embedded", "intermediate-linux"]).default("intermediate-embedded"),
  })
  .refine((terms) => terms.notBefore < terms.notAfter, "the window ends before it begins")
  .refine((terms) => terms.depth <= terms.pathLen, "depth can't exceed pathLen");
export type GrantTerms = z.infer<typeof grantTerms>;

/**
 * The fields of a `delegation` act: the grant itself. It pins public keys, so a renewed certificate doesn't break it. The
 * two digests are of the request for the CA key that the certificate is for, and of the challenge in it.
 */
export const grant = z.strictObject({
  id: z.string().regex(/^[a-z0-9-]{1,80}$/),
  revision: z.int().min(1),
  supersedes: actRef.optional(),
  parentGrant: actRef.optional(),
  issuer: spki,
  child: partyId,
  keyset,
  /** the CA key that the certificate is for, where the child has changed it since its keyset */
  ca: spki.optional(),
  certificate: certificateDer,
  csrSha256: sha256Hex,
  nonceSha256: sha256Hex,
  idPrefixes: z.array(idPrefix).min(1).max(64),
  profiles: z.array(profileRef).min(1).max(16),
  quota: z.int().min(0),
  notBefore: timestamp,
  notAfter: timestamp,
  pathLen: z.int().min(0).max(8),
  depth: z.int().min(0).max(8),
  mayBuild: z.boolean(),
  approvals: z.strictObject({ threshold: z.int().min(0).max(16) }),
});
export type Grant = z.infer<typeof grant>;

/** SPKI, base64, of the CA key that a grant is for. */
export const grantedKey = ({ ca, keyset }: Pick<Grant, "ca" | "keyset">): string => ca ?? keyset.ca;
