import type { Certificate } from "./certificate.ts";
import { OID } from "./oids.ts";
import { PathError } from "./path-result.ts";

/** What a leaf is to be used for. `any`: no particular use, though its CAs' limits on use still nest. */
export type PathPurpose = "any" | "clientAuth" | "serverAuth";

const PURPOSES = {
  clientAuth: { oid: OID.clientAuth, usages: ["digitalSignature", "keyAgreement"] },
  serverAuth: { oid: OID.serverAuth, usages: ["digitalSignature", "keyEncipherment", "keyAgreement"] },
} as const;

/**
 * Key purposes nest: what a CA's extKeyUsage doesn't list, nothing below it may do. For a named purpose every extension
 * in the path must list it by name; anyExtendedKeyUsage doesn't stand for it (RFC 5280 section 4.2.1.12 lets us).
 */
export function checkPurpose(path: readonly Certificate[], purpose: PathPurpose): void {
  if (purpose !== "any") {
    const { oid, usages } = PURPOSES[purpose];
    for (const [i, { eku }] of path.entries()) {
      if (eku !== undefined && !eku.includes(oid)) throw new PathError("extended-key-usage", i, `not for ${purpose}`);
    }
    const keyUsage = path[0]!.keyUsage;
    if (keyUsage !== undefined && !usages.some((usage) => keyUsage.includes(usage))) {
      throw new PathError("key-usage", 0, `its key usage doesn't serve ${purpose}`);
    }
    return;
  }
  let allowed: readonly string[] | undefined;
  for (let i = path.length - 1; i >= 0; i--) {
    const eku = path[i]!.eku;
    if (eku === undefined || eku.includes(OID.anyExtendedKeyUsage)) continue;
    const nested: readonly string[] = allowed === undefined ? eku : eku.filter((one) => allowed!.includes(one));
    if (nested.length === 0) throw new PathError("extended-key-usage", i, "its key purposes aren't its issuers'");
    allowed = nested;
  }
}
