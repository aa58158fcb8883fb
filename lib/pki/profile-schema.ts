import { z } from "zod";
import { CountersignError } from "../domain/errors.ts";
import { KEY_USAGE_BITS } from "./extension-values.ts";
import { OID } from "./oids.ts";

const presence = z.enum(["required", "optional", "forbidden"]);
const days = z.int().min(1).max(36_525);
const oid = z.string().regex(/^[0-2](\.(0|[1-9]\d{0,39})){1,20}$/);

/**
 * A certificate profile: everything about a certificate that its requester doesn't decide. Extensions appear in the
 * fixed order basicConstraints, keyUsage, extKeyUsage, subjectKeyIdentifier, authorityKeyIdentifier, subjectAltName,
 * cRLDistributionPoints, nameConstraints, ocsp-nocheck; basicConstraints, keyUsage and nameConstraints are critical, the
 * rest are not.
 */
const profileSchema = z
  .strictObject({
    name: z.string().regex(/^[a-z][a-z-]{1,40}$/),
    version: z.int().min(1),
    purpose: z.string().min(1).max(300),
    /** Issuer is the subject itself */
    selfSigned: z.boolean(),
    subject: z.strictObject({
      commonName: z.enum(["required", "optional"]),
      /** device-id: the CN is a device ID and nothing else */
      commonNameForm: z.enum(["any", "device-id"]),
      country: presence,
      organization: presence,
      organizationalUnit: presence,
      /** The only value the organizationalUnit may have: where it names a role */
      role: z.string().min(1).max(64).optional(),
      serialNumber: presence,
    }),
    basicConstraints: z.discriminatedUnion("ca", [
      z.strictObject({ ca: z.literal(true), pathLen: presence, maxPathLen: z.int().min(0).max(7) }),
      z.strictObject({ ca: z.literal(false) }),
    ]),
    keyUsage: z.array(z.enum(KEY_USAGE_BITS)).min(1),
    /** Key purpose OIDs; empty: no extension */
    extKeyUsage: z.array(oid).max(8),
    /** Kinds of alternative name; empty: no extension */
    subjectAltName: z.strictObject({
      presence,
      kinds: z.array(z.enum(["dns", "ip", "uri", "email", "hardware-module"])),
    }),
    crlDistributionPoint: presence,
    /** directoryName subtrees, permitted only */
    nameConstraints: presence,
    /** id-pkix-ocsp-nocheck (RFC 6960 section 4.2.2.2.1): nobody asks whether the responder itself is revoked */
    ocspNoCheck: z.boolean().optional(),
    validity: z.strictObject({
      defaultDays: days,
      maxDays: days,
      /** 99991231235959Z is allowed, under an issuer that has it (RFC 5280 section 4.1.2.5) */
      noExpiry: z.boolean(),
    }),
    keyAlgorithms: z.array(z.enum(["ec-p256", "ec-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"])).min(1),
  })
  .check((context) => {
    const { subject, basicConstraints, keyUsage, extKeyUsage, subjectAltName } = context.value;
    const { nameConstraints, ocspNoCheck, validity } = context.value;
    const faults = [
      basicConstraints.ca !== keyUsage.includes("keyCertSign") && "keyCertSign goes with ca, and only with it",
      !basicConstraints.ca && keyUsage.includes("cRLSign") && "cRLSign goes with ca",
      !basicConstraints.ca && nameConstraints !== "forbidden" && "name constraints are for CAs",
      subject.role !== undefined &&
        subject.organizationalUnit !== "required" &&
        "a role is the organizational unit's value, which must be required then",
      (ocspNoCheck === true) !== extKeyUsage.includes(OID.ocspSigning) && "ocsp-nocheck goes with OCSP signing",
      subjectAltName.presence !== "forbidden" &&
        subjectAltName.kinds.length === 0 &&
        "alternative names need a kind they may have",
      validity.defaultDays > validity.maxDays && "the default validity is above the maximum",
    ];
    for (const message of faults) {
      if (message !== false) context.issues.push({ code: "custom", message, input: context.value });
    }
  });

export type Profile = z.infer<typeof profileSchema>;
type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T;
/** As the profile files write it down. */
export type ProfileData = DeepReadonly<Profile>;

/** @throws CountersignError `profile-invalid` */
export function parseProfile(data: unknown): Profile {
  const result = profileSchema.safeParse(data);
  if (result.success) return result.data;
  const detail = result.error.issues
    .map((issue) => `${issue.path.join(".") || "profile"}: ${issue.message}`)
    .join("; ");
  throw new CountersignError("profile-invalid", `the certificate profile is not usable: ${detail}`);
}
