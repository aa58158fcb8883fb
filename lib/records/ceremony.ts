import { parse } from "yaml";
import { z } from "zod";
import { fromUtf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { grantTerms } from "./grant.ts";
import { partyId, sha256Hex, timestamp } from "./primitives.ts";

/**
 * A root ceremony as people review it: one YAML document that says everything the root key will sign. The ceremony's
 * act names its bytes by their digest.
 */
export const ceremonyDocument = z.strictObject({
  schema: z.literal("countersign/ceremony/v1"),
  party: partyId,
  root: z.strictObject({
    commonName: z.string().min(1).max(64),
    organization: z.string().min(1).max(64),
    key: z.enum(["ec-p256", "ec-p384", "rsa-3072", "rsa-4096"]),
    /** 9999-12-31T23:59:59.000Z: without expiry */
    notAfter: timestamp,
    /** CAs allowed below the root */
    pathLen: z.int().min(1).max(7).optional(),
  }),
  crl: z.strictObject({ months: z.int().min(1).max(24) }),
  /** the hub's code for this root, under the name it is registered by */
  hub: z
    .strictObject({
      name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/),
      code: z.string().regex(/^[A-Za-z0-9_-]{16,64}$/, "expected the hub's verification code"),
    })
    .optional(),
  delegations: z.array(z.strictObject({ to: partyId, csrSha256: sha256Hex, grant: grantTerms })).max(64),
});
export type CeremonyDocument = z.infer<typeof ceremonyDocument>;

const MAX_BYTES = 64 * 1024;

/**
 * Reads a ceremony's YAML: one document, no aliases, no key twice, no field unknown.
 * @throws CountersignError `input-invalid`, `input-too-large`
 */
export function parseCeremony(bytes: Uint8Array): CeremonyDocument {
  if (bytes.length > MAX_BYTES) {
    throw new CountersignError("input-too-large", `the ceremony has ${bytes.length} bytes, at most ${MAX_BYTES}`);
  }
  let parsed: unknown;
  try {
    parsed = parse(fromUtf8(bytes), { schema: "core", strict: true, uniqueKeys: true, maxAliasCount: 0 });
  } catch (cause) {
    const why = cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : "";
    throw new CountersignError("input-invalid", `the ceremony isn't readable YAML: ${why}`, { cause });
  }
  const checked = ceremonyDocument.safeParse(parsed);
  if (!checked.success) {
    const issue = checked.error.issues[0];
    throw new CountersignError(
      "input-invalid",
      `the ceremony: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "invalid"}`,
    );
  }
  const children = checked.data.delegations.map((delegation) => delegation.to);
  if (new Set(children).size !== children.length) {
    throw new CountersignError("input-invalid", "the ceremony: delegations: one party appears twice");
  }
  return checked.data;
}
