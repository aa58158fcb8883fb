import { isCountersignError } from "../domain/errors.ts";
import type { VerifySignature } from "../domain/signing.ts";
import type { Certificate } from "./certificate.ts";
import { checkCrl, identifies } from "./crl-check.ts";
import type { Crl } from "./crl-parse.ts";
import { sameName } from "./name.ts";
import { PathError, type PathReason } from "./path-result.ts";

/** `if-given`: a CA without a CRL isn't asked. `leaf`, `all`: that certificate's issuers must each have a current one. */
export type RevocationDemand = "if-given" | "leaf" | "all";

/**
 * Revocation over a path by complete, direct CRLs (RFC 5280 section 6.3). Of an issuer's CRLs the newest genuine one
 * up to `at` counts, and it must be current; a listed certificate is refused whatever its revocation date.
 * @returns for each certificate but the root, whether a CRL was consulted
 * @throws PathError
 */
export async function checkRevocation(
  path: readonly Certificate[],
  crls: readonly Crl[],
  at: Date,
  demand: RevocationDemand,
  verify: VerifySignature,
): Promise<boolean[]> {
  const checked: boolean[] = [];
  for (const [i, certificate] of path.slice(0, -1).entries()) {
    const issuer = path[i + 1]!;
    const crl = await newestCrl(crls, issuer, at, i, verify);
    checked.push(crl !== undefined);
    if (crl === undefined) {
      const wanted = demand === "all" || (demand === "leaf" && i === 0);
      if (wanted) throw new PathError("crl-missing", i, "no CRL of its issuer was given");
      continue;
    }
    if (at >= crl.nextUpdate) {
      throw new PathError("crl-stale", i, `its issuer's newest CRL ran out at ${crl.nextUpdate.toISOString()}`);
    }
    const entry = crl.revoked.get(certificate.serial);
    if (entry !== undefined) {
      throw new PathError("revoked", i, `revoked at ${entry.revokedAt.toISOString()} (${entry.reason})`);
    }
  }
  return checked;
}

async function newestCrl(
  crls: readonly Crl[],
  issuer: Certificate,
  at: Date,
  i: number,
  verify: VerifySignature,
): Promise<Crl | undefined> {
  let newest: Crl | undefined;
  let fault: PathError | undefined;
  for (const crl of crls) {
    if (!sameName(crl.issuer, issuer.subject) || !identifies(crl, issuer)) continue;
    try {
      await checkCrl(crl, issuer, verify);
    } catch (error) {
      if (!isCountersignError(error)) throw error;
      const reason = (error.details["rule"] ?? "crl-malformed") as PathReason;
      // A forged CRL beside a genuine one changes nothing; a genuine one that we can't read may hide a revocation.
      if (reason !== "crl-signature-invalid") throw new PathError(reason, i, error.message);
      fault ??= new PathError(reason, i, error.message);
      continue;
    }
    if (crl.thisUpdate > at) {
      fault ??= new PathError("crl-not-yet-valid", i, `its issuer's CRL is of ${crl.thisUpdate.toISOString()}`);
    } else if (newest === undefined || isNewer(crl, newest)) {
      newest = crl;
    }
  }
  if (newest === undefined && fault !== undefined) throw fault;
  return newest;
}

function isNewer(a: Crl, b: Crl): boolean {
  const difference = a.thisUpdate.getTime() - b.thisUpdate.getTime();
  return difference > 0 || (difference === 0 && (a.number ?? -1n) > (b.number ?? -1n));
}
