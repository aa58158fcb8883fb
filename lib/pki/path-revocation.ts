import { isCountersignError } from "../domain/errors.ts";
import type { VerifySignature } from "../domain/signing.ts";
import type { Certificate } from "./certificate.ts";
import { checkCrl } from "./crl-check.ts";
import type { Crl } from "./crl-parse.ts";
import { sameName } from "./name.ts";
import { PathError, type PathReason } from "./path-result.ts";

/** `if-given`: a CA without a CRL isn't asked. `leaf`, `all`: that certificate's issuers must each have a current one. */
export type RevocationDemand = "if-given" | "leaf" | "all";

/** The CRLs of one validation. Each is checked once against an issuer, however many paths lead through that. */
export class CrlShelf {
  readonly #crls: readonly Crl[];
  readonly #verify: VerifySignature;
  readonly #faults = new Map<Crl, Map<Certificate, PathReason | undefined>>();

  constructor(crls: readonly Crl[], verify: VerifySignature) {
    this.#crls = crls;
    this.#verify = verify;
  }

  /** Those in this issuer's name */
  named(issuer: Certificate): readonly Crl[] {
    return this.#crls.filter((crl) => sameName(crl.issuer, issuer.subject));
  }

  /** Why it may not be read as this issuer's, or undefined */
  async fault(crl: Crl, issuer: Certificate): Promise<PathReason | undefined> {
    let byIssuer = this.#faults.get(crl);
    if (byIssuer === undefined) this.#faults.set(crl, (byIssuer = new Map<Certificate, PathReason | undefined>()));
    if (!byIssuer.has(issuer)) byIssuer.set(issuer, await crlFault(crl, issuer, this.#verify));
    return byIssuer.get(issuer);
  }
}

async function crlFault(crl: Crl, issuer: Certificate, verify: VerifySignature): Promise<PathReason | undefined> {
  try {
    await checkCrl(crl, issuer, verify);
    return undefined;
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    return (error.details["rule"] ?? "crl-malformed") as PathReason;
  }
}

/**
 * Revocation over a path by complete, direct CRLs (RFC 5280 section 6.3). Of an issuer's CRLs the newest genuine one
 * up to `at` counts, and it must be current; a listed certificate is refused whatever its revocation date.
 * @returns for each certificate but the root, whether a CRL was consulted
 * @throws PathError
 */
export async function checkRevocation(
  path: readonly Certificate[],
  crls: CrlShelf,
  at: Date,
  demand: RevocationDemand,
): Promise<boolean[]> {
  const checked: boolean[] = [];
  for (const [i, certificate] of path.slice(0, -1).entries()) {
    const crl = await newestCrl(crls, path[i + 1]!, at, i);
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

/** A CRL under the issuer's name that another key signed changes nothing beside a genuine one, and by itself refuses. */
const OF_ANOTHER_KEY: readonly PathReason[] = ["crl-signature-invalid", "crl-other-key"];

async function newestCrl(crls: CrlShelf, issuer: Certificate, at: Date, i: number): Promise<Crl | undefined> {
  let newest: Crl | undefined;
  let fault: PathError | undefined;
  for (const crl of crls.named(issuer)) {
    const reason = await crls.fault(crl, issuer);
    if (reason !== undefined) {
      const error = new PathError(reason, i, "its issuer's CRL can't be relied on");
      // A genuine one that we can't read may hide a revocation
      if (!OF_ANOTHER_KEY.includes(reason)) throw error;
      fault ??= error;
    } else if (crl.thisUpdate > at) {
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
